"""Keeps gunicorn's master from starting workers that die young again and again, as fast as it can.

A worker that dies is replaced at once, because that is what makes a lost device harmless. One that dies young time
after time will not get better by that: each next one loads its model later, and in the end the master gives up, so
that the platform sees a container that failed and can try another machine. It does not while another worker serves.
"""

import time
from collections.abc import Callable

from gunicorn.errors import HaltServer

# Whoever lives longer than this has served, and its death says nothing about the next one's life.
YOUNG_S = 300.0
# Of each of the pod's workers: what one of them dies of, a lost device, the others die of as well.
MAX_YOUNG_DEATHS = 10
MAX_DELAY_S = 30.0

# Beside a worker that serves others may die for ever.
_MAX_DOUBLINGS = 10

_EXIT_STATUS = 1


class RestartGuard:
    """Lives in the master of so many `workers`; each inherits it in the state of its own birth."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers = workers
        self._clock = clock
        self._births_s: dict[int, float] = {}
        self._young_deaths = 0

    def born(self, age: int) -> None:
        """A worker is about to be started; `age` is gunicorn's number for it."""
        self._births_s[age] = self._clock()

    def retired(self, age: int) -> None:
        """A worker has ended because it was told to."""
        self._births_s.pop(age, None)

    def died(self, age: int, *, others_serve: bool) -> None:
        """A worker has ended by itself or was killed. Raises `HaltServer` when that has happened too often, and nobody
        is left to serve.
        """
        lived_s = self._clock() - self._births_s.pop(age, float("-inf"))
        self._young_deaths = self._young_deaths + 1 if lived_s < YOUNG_S else 0
        if self._young_deaths >= MAX_YOUNG_DEATHS * self._workers and not others_serve:
            raise HaltServer(f"{self._young_deaths} workers in a row died young", _EXIT_STATUS)

    def delay_s(self) -> float:
        """How long the next worker waits before it loads: nothing after one death each, then 1, 2, 4, ... seconds."""
        rounds = -(-self._young_deaths // self._workers)
        return 0.0 if rounds < 2 else min(2.0 ** min(rounds - 2, _MAX_DOUBLINGS), MAX_DELAY_S)
