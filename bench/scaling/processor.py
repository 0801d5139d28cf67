"""A process, whose threads take turns, and a core, whose processes do: all who have work share equally."""

import heapq
from collections.abc import Callable, Sequence
from itertools import count

from bench.scaling.agenda import Agenda

# Two ends so close to each other are one.
_CLOSE = 1e-12


class SharedProcessor:
    """Each of the n jobs that run gets 1/n of it. It has all of a core, or a share that `Core` sets.

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
        self._share = 1.0
        self._changed: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def tell(self, changed: Callable[[], None]) -> None:
        """Call `changed` when it has something to do, and when it has nothing more."""
        self._changed = changed

    def set_share(self, share: float) -> None:
        """From now on it gets that much of a core."""
        self._catch_up()
        self._share = share
        self._wait()

    def run(self, work_s: float, done: Callable[[], None]) -> None:
        """Call `done` when the job has had `work_s` seconds of the processor."""
        self._catch_up()
        was_busy = self.busy
        heapq.heappush(self._jobs, (self._given_s + work_s, next(self._numbers), done))
        self._wait()
        if not was_busy:
            self._changed()

    def _catch_up(self) -> None:
        now_s = self._agenda.now_s
        if self._jobs:
            self._given_s += (now_s - self._since_s) * self._share / len(self._jobs)
        self._since_s = now_s

    def _wait(self) -> None:
        """For the next end. One more or less job moves it, and makes the wait before this one void."""
        self._version += 1
        if self._jobs:
            version = self._version
            left_s = (self._jobs[0][0] - self._given_s) * len(self._jobs) / self._share
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
        if not self.busy:
            self._changed()
        for done in ended:
            done()


class Core:
    """Processes on one core: each that has something to do gets the same, however many threads it has."""

    def __init__(self, processes: Sequence[SharedProcessor]) -> None:
        self._processes = processes
        for process in processes:
            process.tell(self._share_out)

    def _share_out(self) -> None:
        busy = sum(process.busy for process in self._processes)
        for process in self._processes:
            process.set_share(1 / max(1, busy))
