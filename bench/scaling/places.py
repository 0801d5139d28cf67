"""Where a client may send a request: pods, whose number may follow what waits; a serverless endpoint."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from clip_embedding_client.errors import ClipClientError, ConnectionFailed, Overloaded

from bench.scaling.agenda import Agenda
from bench.scaling.replica import Limits, Replica, Request
from bench.scaling.speed import Speed
from core import errors
from core.batching.items import Modality

Answer = Callable[[ClipClientError | None], None]
"""Takes None for vectors, or the error."""

# Kubernetes' own: how often its autoscaler looks, what difference it does not act on, how it grows.
LOOK_S = 15.0
_TOLERANCE = 0.1
_MOST_NEW_PODS = 4


class Place(Protocol):
    """Answers, sooner or later, what it is asked."""

    def ask(self, modality: Modality, items: int, answer: Answer) -> Callable[[], None]:
        """Returns what to call when nobody waits any more."""

    def paid_s(self, until_s: float) -> float:
        """Seconds of all machines that are to be paid, up to `until_s`."""


@dataclass(slots=True, eq=False)
class _Pod:
    replica: Replica
    since_s: float
    ready: bool = True
    until_s: float | None = None
    seen_s: deque[float] = field(default_factory=deque)


class Pods:
    """Pods that are asked in turn. One that has no place left refuses, and nobody looks for another, which is what a
    balancer does that knows nothing of its pods."""

    def __init__(self, agenda: Agenda, speed: Speed, limits: Limits, *, line_s: float) -> None:
        self._agenda = agenda
        self._speed = speed
        self._limits = limits
        self._line_s = line_s
        self._pods = list[_Pod]()
        self._gone = list[_Pod]()
        self._next = 0

    @property
    def count(self) -> int:
        return len(self._pods)

    def add(self, start_s: float) -> None:
        """One more, which is paid from now on and takes requests after `start_s`."""
        pod = _Pod(Replica(self._agenda, self._speed, self._limits), self._agenda.now_s, ready=start_s == 0.0)
        self._pods.append(pod)
        if not pod.ready:
            self._agenda.after(start_s, lambda: self._make_ready(pod))

    def _make_ready(self, pod: _Pod) -> None:
        pod.ready = True

    def remove(self) -> None:
        """The newest takes no more requests. What it has is answered; a drain's seconds are not paid here."""
        pod = self._pods.pop()
        pod.until_s = self._agenda.now_s
        self._gone.append(pod)

    def look(self, window: int) -> float:
        """Note every pod's queue; returns the sum of their highest of the last `window` looks, in seconds."""
        for pod in self._pods:
            pod.seen_s.append(pod.replica.queued_s)
            if len(pod.seen_s) > window:
                pod.seen_s.popleft()
        return sum(max(pod.seen_s) for pod in self._pods)

    def ask(self, modality: Modality, items: int, answer: Answer) -> Callable[[], None]:
        self._agenda.after(self._line_s, lambda: self._arrived(modality, items, answer))
        return lambda: None

    def _arrived(self, modality: Modality, items: int, answer: Answer) -> None:
        ready = [pod for pod in self._pods if pod.ready]
        if not ready:
            answer(ConnectionFailed("no pod is up"))
            return
        self._next += 1
        replica = ready[self._next % len(ready)].replica
        if replica.has_room:
            replica.accept(Request(modality, items, lambda: answer(None)))
        else:
            answer(Overloaded("the pod is full", retry_after_s=errors.Overloaded.retry_after_s))

    def paid_s(self, until_s: float) -> float:
        every = [*self._pods, *self._gone]
        return sum((until_s if pod.until_s is None else pod.until_s) - pod.since_s for pod in every)


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """As in deploy/kubernetes: seconds of queue per pod, the bounds, and how long a lower wish has to last."""

    threshold_s: float
    least: int = 1
    most: int = 8
    window_s: float = 60.0
    stabilisation_s: float = 300.0

    def wish(self, queued_s: float, now: int) -> int:
        """How many pods there should be for `queued_s` in all of them together, as Kubernetes computes it."""
        if abs(queued_s / (self.threshold_s * now) - 1) <= _TOLERANCE:
            return now
        wish = math.ceil(queued_s / self.threshold_s)
        return max(self.least, min(self.most, wish, now + max(now, _MOST_NEW_PODS)))


class Autoscaler:
    """Looks every 15 seconds until `end_s`."""

    def __init__(self, agenda: Agenda, pods: Pods, rule: ScalingRule, *, start_s: float, end_s: float) -> None:
        self._agenda = agenda
        self._pods = pods
        self._rule = rule
        self._start_s = start_s
        self._end_s = end_s
        self._wishes = deque[tuple[float, int]]()
        for _ in range(rule.least):
            pods.add(0.0)
        agenda.after(LOOK_S, self._look)

    def _look(self) -> None:
        now_s, rule, pods = self._agenda.now_s, self._rule, self._pods
        wish = rule.wish(pods.look(int(rule.window_s / LOOK_S)), pods.count)
        self._wishes.append((now_s, wish))
        while self._wishes[0][0] < now_s - rule.stabilisation_s:
            self._wishes.popleft()
        lasting = max(count for _, count in self._wishes)
        while pods.count < wish:
            pods.add(self._start_s)
        while pods.count > lasting:
            pods.remove()
        if now_s < self._end_s:
            self._agenda.after(LOOK_S, self._look)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A serverless endpoint's settings, as in deploy/runpod/serverless.json, and how long a worker takes to come up.

    `revived_share` of the starts are FlashBoot's, of a worker that ran here a while ago.
    """

    max_workers: int
    request_count: int
    idle_s: float
    revived_s: float
    cold_s: float
    revived_share: float


@dataclass(slots=True, eq=False)
class _Worker:
    replica: Replica
    since_s: float
    ready: bool = False
    until_s: float | None = None
    idle_version: int = 0


@dataclass(slots=True, eq=False)
class _Queued:
    modality: Modality
    items: int
    answer: Answer
    wanted: bool = True


class Serverless:
    """Jobs wait in one queue for a worker with a free place; workers come by the number of jobs and go when idle."""

    def __init__(
        self,
        agenda: Agenda,
        speed: Speed,
        endpoint: Endpoint,
        max_batch: int,
        *,
        line_s: float,
        draw: np.random.Generator,
    ) -> None:
        self._agenda = agenda
        self._speed = speed
        self._endpoint = endpoint
        self._limits = Limits(endpoint.request_count, max_batch)
        self._line_s = line_s
        self._draw = draw
        self._queue = deque[_Queued]()
        self._running = 0
        self._workers = list[_Worker]()
        self._gone = list[_Worker]()

    def ask(self, modality: Modality, items: int, answer: Answer) -> Callable[[], None]:
        job = _Queued(modality, items, answer)
        self._agenda.after(self._line_s, lambda: self._arrived(job))

        def cancel() -> None:
            job.wanted = False

        return cancel

    def _arrived(self, job: _Queued) -> None:
        self._queue.append(job)
        self._dispatch()
        wanted = math.ceil((len(self._queue) + self._running) / self._endpoint.request_count)
        while len(self._workers) < min(wanted, self._endpoint.max_workers):
            self._start()

    def _start(self) -> None:
        endpoint, worker = self._endpoint, _Worker(Replica(self._agenda, self._speed, self._limits), self._agenda.now_s)
        self._workers.append(worker)
        revived = float(self._draw.uniform()) < endpoint.revived_share
        self._agenda.after(endpoint.revived_s if revived else endpoint.cold_s, lambda: self._started(worker))

    def _started(self, worker: _Worker) -> None:
        worker.ready = True
        self._dispatch()
        if worker.replica.running == 0:
            self._rests(worker)

    def _dispatch(self) -> None:
        while self._queue:
            if not self._queue[0].wanted:
                self._queue.popleft()
                continue
            free = [worker for worker in self._workers if worker.ready and worker.replica.has_room]
            if not free:
                return
            worker = min(free, key=lambda each: each.replica.running)
            self._give(worker, self._queue.popleft())

    def _give(self, worker: _Worker, job: _Queued) -> None:
        worker.idle_version += 1
        self._running += 1

        def answered() -> None:
            self._running -= 1
            job.answer(None)
            self._dispatch()
            if worker.replica.running == 0:
                self._rests(worker)

        worker.replica.accept(Request(job.modality, job.items, answered))

    def _rests(self, worker: _Worker) -> None:
        worker.idle_version += 1
        version = worker.idle_version
        self._agenda.after(self._endpoint.idle_s, lambda: self._stop(worker, version))

    def _stop(self, worker: _Worker, version: int) -> None:
        if version == worker.idle_version:
            self._workers.remove(worker)
            worker.until_s = self._agenda.now_s
            self._gone.append(worker)

    def paid_s(self, until_s: float) -> float:
        """Each worker from the signal to wake up until it has stopped, in whole seconds, as RunPod counts."""
        every = [*self._workers, *self._gone]
        return sum(
            math.ceil((until_s if worker.until_s is None else worker.until_s) - worker.since_s) for worker in every
        )
