"""The service inside this process: the same core, no network. `core` and torch are imported on first use only."""

import importlib.util
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worker.errors import ClipClientError, ConfigurationError, ServerFailed, error_from_wire
from worker.values import Body

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
            raise ConfigurationError(f"the backend local needs the package's extra core: {missing[0]} is not installed")
        self._environ = environ
        self._service: Service | None = None
        self._lock = threading.Lock()

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> object:
        service = self._loaded()
        from core.errors import ServiceError

        try:
            return _run(service, path, body, timeout_s)
        except ServiceError as error:
            raise _typed(error.code, error.message, body, retryable=error.retryable) from error
        except Exception as error:
            # As the pod does: the cause goes to the log, and one call fails, not the whole run of its caller.
            logger.exception("an operation failed")
            raise ServerFailed("internal error") from error

    def health(self, *, timeout_s: float) -> object:
        return self._loaded().health()

    def close(self) -> None:
        with self._lock:
            service, self._service = self._service, None
        if service is not None:
            service.close()

    def _loaded(self) -> "Service":
        with self._lock:
            if self._service is None:
                self._service = _load(self._environ)
            return self._service


def _load(environ: Mapping[str, str]) -> "Service":
    from core.build import build_service
    from core.errors import StartError
    from core.settings import load_settings

    try:
        service = build_service(load_settings(environ))
        service.load()
    except StartError as error:
        raise ConfigurationError(f"the backend local cannot start: {error}") from error
    return service


def _run(service: "Service", path: str, body: Mapping[str, Any], timeout_s: float) -> Body:
    from core.deadline import Cancellation
    from core.wire.requests import request_id_of

    deadline = service.deadline(max(1, int(timeout_s * 1000)), Cancellation())
    with service.admitted() as api:
        return api.prepare(path, body, request_id=request_id_of(body), deadline=deadline).run()


def _typed(code: str, message: str, body: Mapping[str, Any], *, retryable: bool) -> ClipClientError:
    wire = {"code": code, "message": message, "request_id": body.get("request_id"), "retryable": retryable}
    return error_from_wire(wire) or ServerFailed(message)
