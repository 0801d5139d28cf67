"""A WSGI application that tells what the gunicorn worker around it has done to the process."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gevent import monkey

from pod import SERVICE_EXTENSION

_MODULES = ("threading", "socket", "ssl", "time", "queue", "select")


class _NothingToDrain:
    def drain(self) -> None:
        """The worker drains the service on SIGTERM; there is none here."""

    def close(self) -> None:
        """And closes it at the end."""


class App:
    extensions = {SERVICE_EXTENSION: _NothingToDrain()}  # noqa: RUF012 - read only

    def __call__(self, _environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:  # noqa: ANN401
        start_response("200 OK", [("Content-Type", "application/json")])
        patched = [module for module in _MODULES if monkey.is_module_patched(module)]
        return [json.dumps({"patched": patched, "torch": "torch" in sys.modules}).encode()]


app = App()
