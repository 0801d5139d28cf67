"""The service as an adapter sees it: load, admit a request, tell its health, drain, close."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version

from core.api import Api
from core.errors import NotReady, Overloaded, StartError
from core.responses import Body, ModelIdentity
from core.settings import ServiceSettings

VERSION = version("clip-embedding-service")


class Status(Enum):
    """The `status` of `/health`."""

    LOADING = "loading"
    OK = "ok"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Runtime:
    """What loading gives: the api over a warm model, and how to test it, ask after it and end it."""

    api: Api
    identity: ModelIdentity
    torch_version: str
    cuda_version: str | None
    check: Callable[[], None]
    healthy: Callable[[], bool]
    close: Callable[[], None]


class Service:
    """Thread-safe. Starts as `loading`; `load` makes it `ok`, `drain` ends that for good."""

    def __init__(self, settings: ServiceSettings, load: Callable[[], Runtime]) -> None:
        self._settings = settings
        self._load = load
        self._runtime: Runtime | None = None
        self._draining = False
        self._started_s = time.monotonic()
        self._places = threading.BoundedSemaphore(settings.max_concurrent_requests)

    @property
    def status(self) -> Status:
        if self._draining:
            return Status.DRAINING
        if self._runtime is None:
            return Status.LOADING
        return Status.OK if self._runtime.healthy() else Status.UNHEALTHY

    def load(self) -> None:
        """Read and warm the model; blocks for seconds. Raises `StartError` when that is impossible."""
        self._runtime = self._load()

    def check(self) -> None:
        """Embed one image and one text through decoder, batcher and model. Raises `StartError` when that fails."""
        if self._runtime is None:
            raise StartError("the model is not loaded")
        self._runtime.check()

    def drain(self) -> None:
        """Refuse new work from now on; what was admitted runs to its end. Safe in a signal handler."""
        self._draining = True

    @contextmanager
    def admitted(self) -> Iterator[Api]:
        """Hold one of the places for a request. Raises `NotReady` or `Overloaded` at once, never waits."""
        status = self.status
        if status is not Status.OK or self._runtime is None:
            raise NotReady(f"the service is {status.value}")
        if not self._places.acquire(blocking=False):
            raise Overloaded
        try:
            yield self._runtime.api
        finally:
            self._places.release()

    def health(self) -> Body:
        """The body of `/health`, the same in every status; what is not known before loading is null."""
        runtime = self._runtime
        identity = runtime.identity if runtime else None
        return {
            "status": self.status.value,
            "model_name": identity and identity.model_name,
            "pretrained": identity and identity.pretrained,
            "device": identity and identity.device,
            "dtype": identity and identity.dtype,
            "engine": identity and identity.engine,
            "dim": identity and identity.dim,
            "fingerprint": identity and identity.fingerprint,
            "torch_version": runtime and runtime.torch_version,
            "cuda_version": runtime and runtime.cuda_version,
            "uptime_seconds": round(time.monotonic() - self._started_s, 3),
            "version": VERSION,
            "insecure_auth": not self._settings.hmac_secrets(),
        }

    def close(self) -> None:
        """Drain, stop every thread and release the model."""
        self.drain()
        if self._runtime is not None:
            self._runtime.close()
