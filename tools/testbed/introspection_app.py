"""A WSGI application that tells what the gunicorn worker around it has done to the process."""

import gc
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gevent import monkey

from core.service import Status
from core.siblings import Seat
from pod import FIGURES_EXTENSION, SERVICE_EXTENSION
from pod.metrics import Figures

_MODULES = ("threading", "socket", "ssl", "time", "queue", "select")


class _NothingToDrain:
    status = Status.OK
    accepts = True
    processes = ready_processes = 1
    beats = None
    pass_serials = ()

    def join(self, _seat: Seat) -> None:
        """The configuration tells the service who else is there."""

    def load(self) -> None:
        """The configuration loads the service; there is none here."""

    def drain(self) -> None:
        """The worker drains it on SIGTERM."""

    def beat(self) -> None:
        """And tells it that the hub is alive."""

    def close(self) -> None:
        """And closes it at the end."""


class App:
    extensions = {SERVICE_EXTENSION: _NothingToDrain(), FIGURES_EXTENSION: Figures([])}  # noqa: RUF012 - read only

    def __call__(self, _environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:  # noqa: ANN401
        start_response("200 OK", [("Content-Type", "application/json")])
        patched = [module for module in _MODULES if monkey.is_module_patched(module)]
        told = {"patched": patched, "torch": "torch" in sys.modules, "frozen": gc.get_freeze_count() > 0}
        return [json.dumps(told).encode()]


app = App()
