"""The service inside this process: the same core, no network. `core` and torch are imported on first use only."""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from clip_embedding_client.effects import Flow, InProcess
from clip_embedding_client.errors import (
    ClientClosed,
    ClipClientError,
    ConfigurationError,
    ServerFailed,
    error_from_wire,
)
from clip_embedding_client.values import Body

if TYPE_CHECKING:
    from core.service import Service

logger = logging.getLogger(__name__)

_NEEDED = ("core", "torch")


class LocalBackend:
    """Loads the model on the first call, which therefore takes seconds; the others wait for it.

    `timeout_s` bounds a call from when the model is loaded, and the service's own REQUEST_TIMEOUT_S (in `environ`) too.
    """

    name = "local"

    def __init__(self, environ: Mapping[str, str]) -> None:
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigurationError(
                f"the backend local needs the service with its extra core: {missing[0]} is not installed"
            )
        self._environ = environ
        self._service: Service | None = None
        self._closed = False
        self._lock = threading.Lock()

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        abandon = _Abandon()
        return (yield InProcess(partial(self._call, path, body, timeout_s, abandon), abandon))

    def health(self, *, timeout_s: float) -> Flow[object]:
        return (yield InProcess(lambda: self._loaded().health(), _Abandon()))

    def _call(self, path: str, body: Mapping[str, Any], timeout_s: float, abandon: _Abandon) -> object:
        service = self._loaded()
        from core.errors import ServiceError

        try:
            return _run(service, path, body, timeout_s, abandon)
        except ServiceError as error:
            raise _typed(error.code, error.message, body, retryable=error.retryable) from error
        except Exception as error:
            # As the pod does: the cause goes to the log, and one call fails, not the whole run of its caller.
            logger.exception("an operation failed")
            raise ServerFailed("internal error") from error

    def close(self) -> None:
        with self._lock:
            self._closed = True
            service, self._service = self._service, None
        if service is not None:
            service.close()

    def _loaded(self) -> Service:
        with self._lock:
            # By a call that was on its way: nobody would release what it loads.
            if self._closed:
                raise ClientClosed
            if self._service is None:
                self._service = _load(self._environ)
            return self._service


class _Abandon:
    """Ends a call early, also one that has not begun: it is called by whoever waited, and `ends` says how."""

    def __init__(self) -> None:
        self._abandoned = False
        self._end: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._abandoned, end = True, self._end
        if end is not None:
            end()

    def ends(self, end: Callable[[], object]) -> None:
        """`end` is quick, and is called at once if nobody waits any more."""
        with self._lock:
            self._end, abandoned = end, self._abandoned
        if abandoned:
            end()


def _load(environ: Mapping[str, str]) -> Service:
    from core.build import build_service
    from core.errors import StartError
    from core.settings import load_settings

    # A worker's own MODEL_NAME, of whichever model it runs beside this one, is not RunPod's.
    environ = {name: value for name, value in environ.items() if name != "MODEL_NAME"}
    try:
        service = build_service(load_settings(environ))
        service.load()
    except StartError as error:
        raise ConfigurationError(f"the backend local cannot start: {error}") from error
    return service


def _run(service: Service, path: str, body: Mapping[str, Any], timeout_s: float, abandon: _Abandon) -> Body:
    from core.deadline import Cancellation
    from core.wire.requests import request_id_of

    cancellation = Cancellation()
    abandon.ends(cancellation.cancel)
    deadline = service.deadline(max(1, int(timeout_s * 1000)), cancellation)
    with service.admitted() as api:
        return api.prepare(path, body, request_id=request_id_of(body), deadline=deadline).run()


def _typed(code: str, message: str, body: Mapping[str, Any], *, retryable: bool) -> ClipClientError:
    wire = {"code": code, "message": message, "request_id": body.get("request_id"), "retryable": retryable}
    return error_from_wire(wire) or ServerFailed(message)
