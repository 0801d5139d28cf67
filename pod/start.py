"""Start-up beside the server: the model loads on a thread, so that health answers from the first second."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from gunicorn.arbiter import Arbiter

from core.errors import StartError
from core.process.garbage import kept_from_collector
from core.service import Service
from core.watchdog import FAULT_EXIT_STATUS, Watchdog, WatchdogLimits

logger = logging.getLogger(__name__)


def start(service: Service, limits: WatchdogLimits, *, part: Callable[[], None], delay_s: float = 0.0) -> None:
    """Load the model on a daemon thread, and watch over it on another.

    When loading fails, the worker ends in a way that ends the master too, unless another worker serves. On a fault it
    ends in a way that has the master start a fresh one; `part` closes the door before that. The `delay_s` before
    loading is for a worker whose predecessors died young.
    """
    threading.Thread(target=_load_or_exit, args=(service, delay_s), name="load", daemon=True).start()
    Watchdog(service, limits, part=part, end=lambda: _exit(FAULT_EXIT_STATUS)).start()


def _load_or_exit(service: Service, delay_s: float) -> None:
    if delay_s > 0:
        logger.warning("the workers before this one died young: it waits", extra={"delay_s": delay_s})
        time.sleep(delay_s)
    try:
        with kept_from_collector():
            service.load()
    except StartError as error:
        logger.critical("cannot start: %s", error)
    except Exception:
        logger.critical("cannot start: unexpected failure while loading the model", exc_info=True)
    else:
        fields = {"pid": os.getpid(), "serving": service.ready_processes, "processes": service.processes}
        logger.info("this worker serves", extra=fields)
        return
    # gunicorn halts on the second status instead of starting the worker again and again.
    _exit(FAULT_EXIT_STATUS if service.ready_processes else Arbiter.APP_LOAD_ERROR)


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Only os._exit ends a process from a thread.
    os._exit(status)
