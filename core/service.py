"""The service as an adapter sees it: load, admit a request, tell its health, drain, close."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.metadata import version
from typing import Protocol

from core import metrics
from core.api import Api
from core.deadline import Cancellation, Deadline
from core.errors import NotReady, Overloaded, StartError
from core.metrics import Reading
from core.settings import ServiceSettings
from core.siblings import Phase, Seat, Siblings
from core.wire.responses import Body, ModelIdentity

VERSION = version("clip-embedding-service")


class Status(Enum):
    """The `status` of `/health`."""

    LOADING = "loading"
    OK = "ok"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"


_PHASES = {Status.LOADING: Phase.LOADING, Status.OK: Phase.SERVING}


class Runtime(Protocol):
    """What loading gives: the api over a warm model, and how to test it, ask after it and end it.

    `pass_serials` has, for each device, the number of the forward pass that runs there, or None; `fail` gives the model
    up for good: whatever waits for it is answered with `NotReady`.
    """

    api: Api
    identity: ModelIdentity
    torch_version: str
    cuda_version: str | None

    @property
    def healthy(self) -> bool: ...

    def readings(self) -> Iterator[Reading]: ...

    def pass_serials(self) -> tuple[int | None, ...]: ...

    def check(self) -> None: ...

    def fail(self) -> None: ...

    def close(self) -> None: ...


class Service:
    """Thread-safe. Starts as `loading`; `load` makes it `ok`, `leave` and `drain` end that for good.

    Alone, unless it is told by `join` that it is one process of several.
    """

    def __init__(
        self, settings: ServiceSettings, load: Callable[[], Runtime], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._load = load
        self._clock = clock
        self._runtime: Runtime | None = None
        self._leaving = False
        self._draining = False
        self._started_s = clock()
        self._lock = threading.Lock()
        self._seat = Siblings(1).seat()
        self._beats = 0
        self._resting = True

    def join(self, seat: Seat) -> None:
        """Count with the others of `seat` from now on; before the first request."""
        self._seat = seat
        self._show()

    @property
    def status(self) -> Status:
        return Status.DRAINING if self._leaving else self._ability

    @property
    def _ability(self) -> Status:
        if self._runtime is None:
            return Status.LOADING
        return Status.OK if self._runtime.healthy else Status.UNHEALTHY

    def _show(self) -> None:
        self._seat.show(_PHASES.get(self.status, Phase.LEAVING))

    @property
    def accepts(self) -> bool:
        """Whether this process should take new connections; the others are told how it is."""
        self._show()
        return self._seat.accepts

    def load(self) -> None:
        """Read and warm the model; blocks for seconds. Raises `StartError` when that is impossible."""
        self._runtime = self._load()
        self._show()

    def check(self) -> None:
        """Embed one image and one text through decoder, batcher and model. Raises `StartError` when that fails."""
        if self._runtime is None:
            raise StartError("the model is not loaded")
        self._runtime.check()

    def leave(self) -> None:
        """Be told as draining from now on, so that nobody new comes. Whoever is here already is still served."""
        self._leaving = True
        self._show()

    def drain(self) -> None:
        """Refuse new work from now on; what was admitted runs to its end. Safe in a signal handler."""
        self._draining = True
        self.leave()

    def deadline(self, timeout_ms: int | None, cancellation: Cancellation) -> Deadline:
        """The end of a request that begins now: what its caller asked for, up to REQUEST_TIMEOUT_S."""
        most_s = self._settings.request_timeout_s
        return Deadline.after(most_s if timeout_ms is None else min(timeout_ms / 1000, most_s), cancellation)

    @contextmanager
    def admitted(self) -> Iterator[Api]:
        """Hold one of the places for a request, of which all processes together have MAX_CONCURRENT_REQUESTS.

        Raises `NotReady` or `Overloaded` at once, never waits.
        """
        status = Status.DRAINING if self._draining else self._ability
        if status is not Status.OK or self._runtime is None:
            raise NotReady(f"the service is {status.value}")
        with self._lock:
            if not self._seat.take_place(self.requests_limit):
                raise Overloaded
        try:
            yield self._runtime.api
        finally:
            with self._lock:
                self._seat.give_place_back()

    @property
    def idle(self) -> bool:
        """Whether no request holds a place in this process."""
        return self._seat.requests == 0

    @property
    def processes(self) -> int:
        """How many processes there are, this one included."""
        return self._seat.siblings.processes

    @property
    def ready_processes(self) -> int:
        """How many of them serve."""
        return self._seat.siblings.serving

    @property
    def requests_in_flight(self) -> int:
        """How many requests hold a place, in all processes together."""
        return self._seat.siblings.requests

    @property
    def requests_limit(self) -> int:
        """How many may, in all processes together."""
        return self._settings.requests_limit

    def beat(self) -> None:
        """Called again and again by the thread that holds the connections, as a sign that it is not stuck."""
        self._beats += 1
        self._resting = False

    def rest(self) -> None:
        """The thread that beats has nothing to do for a while, and will not beat."""
        self._resting = True

    @property
    def beats(self) -> int | None:
        """How many there have been; None while none is expected. Nobody is stuck while it changes."""
        return None if self._resting else self._beats

    @property
    def pass_serials(self) -> tuple[int | None, ...]:
        """For each device the number of the forward pass that runs there, or None; empty while loading: warming takes
        long.
        """
        return self._runtime.pass_serials() if self._runtime is not None else ()

    def fail(self) -> None:
        """Unready for good: what waits for the model is answered with `NotReady`."""
        if self._runtime is not None:
            self._runtime.fail()
            self._show()

    def readings(self) -> Iterator[Reading]:
        """What is measured in this process, for metrics: of the model and its parts nothing until it is loaded."""
        yield Reading(metrics.READY, (), float(self.status is Status.OK))
        yield Reading(metrics.PROCESSES, (), 1)
        yield Reading(metrics.REQUESTS_IN_FLIGHT, (), self._seat.requests)
        yield Reading(metrics.REQUESTS_LIMIT, (), self.requests_limit)
        runtime = self._runtime
        if runtime is None:
            return
        model = runtime.identity
        served = (model.model_name, model.fingerprint, model.engine, model.dtype, model.device)
        yield Reading(metrics.BUILD_INFO, (VERSION, self._settings.service_commit or "", *served), 1)
        yield from runtime.readings()

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
            "uptime_seconds": round(self._clock() - self._started_s, 3),
            "version": VERSION,
            "commit": self._settings.service_commit,
            "insecure_auth": not self._settings.verifies_signatures,
        }

    def close(self) -> None:
        """Drain, stop every thread and release the model."""
        self.drain()
        self.rest()
        if self._runtime is not None:
            self._runtime.close()
