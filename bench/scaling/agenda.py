"""Simulated time: what is to happen when. Knows nothing of what happens."""

import heapq
from collections.abc import Callable
from itertools import count


class Agenda:
    """Calls things in the order of their times, those of one time in the order in which they were put in.

    `now_s` is the time of the call that runs.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._numbers = count()
        self._entries: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """The same as `now_s`, for whoever takes a clock."""
        return self.now_s

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Call at `time_s`, or now if that has passed."""
        heapq.heappush(self._entries, (max(time_s, self.now_s), next(self._numbers), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now_s + seconds, call)

    def run(self, until_s: float = float("inf")) -> None:
        """Until nothing is left, or up to and including `until_s`."""
        while self._entries and self._entries[0][0] <= until_s:
            self.now_s, _, call = heapq.heappop(self._entries)
            call()
