"""One processor that all who have work share equally: the pod's main process, whose threads take turns."""

import heapq
from collections.abc import Callable
from itertools import count

from bench.scaling.agenda import Agenda

# Two ends so close to each other are one.
_CLOSE = 1e-12


class SharedProcessor:
    """Each of the n jobs that run gets 1/n of it.

    Simulated by the work that a job which had run from the beginning would have got by now: a job that comes ends when
    that has grown by its own work, so nothing is counted down.
    """

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._given_s = 0.0
        self._since_s = 0.0
        self._version = 0

    def run(self, work_s: float, done: Callable[[], None]) -> None:
        """Call `done` when the job has had `work_s` seconds of the processor."""
        self._catch_up()
        heapq.heappush(self._jobs, (self._given_s + work_s, next(self._numbers), done))
        self._wait()

    def _catch_up(self) -> None:
        now_s = self._agenda.now_s
        if self._jobs:
            self._given_s += (now_s - self._since_s) / len(self._jobs)
        self._since_s = now_s

    def _wait(self) -> None:
        """For the next end. One more or less job moves it, and makes the wait before this one void."""
        self._version += 1
        if self._jobs:
            version = self._version
            left_s = (self._jobs[0][0] - self._given_s) * len(self._jobs)
            self._agenda.after(max(0.0, left_s), lambda: self._ended(version))

    def _ended(self, version: int) -> None:
        if version != self._version:
            return
        self._catch_up()
        self._given_s = max(self._given_s, self._jobs[0][0])
        ended = list[Callable[[], None]]()
        while self._jobs and self._jobs[0][0] <= self._given_s + _CLOSE:
            ended.append(heapq.heappop(self._jobs)[2])
        self._wait()
        for done in ended:
            done()
