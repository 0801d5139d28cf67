"""A circuit breaker: closed, open after failures in a row, half open for one probe after a cool-down."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Closed lets everything through, open nothing, half open a probe, and another one after each cool-down."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to make one call. `era` tells outcomes that are older than the last change of state: they count no more."""

    era: int
    is_probe: bool


class Breaker:
    """Thread-safe. Every admitted call reports `succeeded` or `failed`; exactly one report makes each change."""

    def __init__(self, *, max_failures: int, cool_down_s: float, monotonic: Callable[[], float]) -> None:
        self.cool_down_s = cool_down_s
        self._max_failures = max_failures
        self._monotonic = monotonic
        self._state = State.CLOSED
        self._era = 0
        self._failures = 0
        self._since_s = 0.0
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        return self._state

    def admit(self) -> Admission | None:
        """Return leave for one call, or None: ask elsewhere."""
        with self._lock:
            if self._state is State.CLOSED:
                return Admission(self._era, is_probe=False)
            # Also while half open: a probe that never reports (its thread died) must not block the way for ever.
            if self._monotonic() - self._since_s < self.cool_down_s:
                return None
            if self._state is State.OPEN:
                self._enter(State.HALF_OPEN)
            else:
                # Of the same era: the answer of a slow probe counts, also when it comes after this one was let in.
                self._since_s = self._monotonic()
            return Admission(self._era, is_probe=True)

    def succeeded(self, admission: Admission) -> bool:
        """Report that the backend answered. Returns True if this closed the breaker."""
        with self._lock:
            if admission.era != self._era and not self._is_of_the_last_probes(admission):
                return False
            self._failures = 0
            if self._state is State.CLOSED:
                return False
            self._enter(State.CLOSED)
            return True

    def failed(self, admission: Admission) -> bool:
        """Report that the backend did not answer. Returns True if this opened a closed breaker."""
        with self._lock:
            if admission.era != self._era:
                return False
            was_closed = self._state is State.CLOSED
            self._failures += 1
            if was_closed and self._failures < self._max_failures:
                return False
            self._enter(State.OPEN)
            return was_closed

    def _is_of_the_last_probes(self, admission: Admission) -> bool:
        """Whether another probe, which may be older, has failed while this one was on its way."""
        return self._state is State.OPEN and admission.is_probe and admission.era == self._era - 1

    def _enter(self, state: State) -> None:
        self._state = state
        self._era += 1
        self._failures = 0
        self._since_s = self._monotonic()
