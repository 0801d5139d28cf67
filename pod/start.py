"""Start-up beside the server: the model loads on a thread, so that health answers from the first second."""

import logging
import os
import sys
import threading

from gunicorn.arbiter import Arbiter

from core.errors import StartError
from core.service import Service

logger = logging.getLogger(__name__)


def load_in_background(service: Service) -> None:
    """Load the model on a daemon thread. When that fails, end the worker in a way that ends the master too."""
    threading.Thread(target=_load_or_exit, args=(service,), name="load", daemon=True).start()


def _load_or_exit(service: Service) -> None:
    try:
        service.load()
    except StartError as error:
        logger.critical("cannot start: %s", error)
    except Exception:
        logger.critical("cannot start: unexpected failure while loading the model", exc_info=True)
    else:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # gunicorn halts on this status instead of starting the worker again and again. Only os._exit ends a process
    # from a thread.
    os._exit(Arbiter.APP_LOAD_ERROR)
