"""One way to run the service under one day's jobs: who was answered, how soon, what was lost, what it cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
from clip_embedding_client.settings import BackendName, ClientSettings

from bench.scaling.agenda import Agenda
from bench.scaling.callers import Caller
from bench.scaling.places import Autoscaler, Endpoint, Place, Pods, ScalingRule, Serverless
from bench.scaling.replica import Limits
from bench.scaling.speed import BATCH, Speed
from bench.scaling.traffic import DAY_S, Job, Kind
from core.batching.items import Modality

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Way:
    """How it is run: `pods` always on, or by `rule`; an endpoint beside them, or alone where there are none."""

    name: str
    pods: int = 0
    rule: ScalingRule | None = None
    serverless: bool = False

    def __post_init__(self) -> None:
        if not (self.pods or self.rule or self.serverless):
            raise ValueError(f"{self.name}: nothing would answer")


@dataclass(frozen=True, slots=True)
class World:
    """All that is the same for every way. `*_line_s` is a request's way there and back; prices are in one currency."""

    speed: Speed
    pod_limits: Limits
    endpoint: Endpoint
    client: ClientSettings
    pod_start_s: float
    pod_line_s: float
    serverless_line_s: float
    pod_per_hour: float
    serverless_per_s: float
    front_ends: int = 4


@dataclass(slots=True)
class Done:
    """What came of a job: its items, those that were answered and those given up; the time of its last outcome."""

    job: Job
    answered: int = 0
    lost: int = 0
    last_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.last_s - self.job.at_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """`paid_*_s` are seconds of machines until the day, or what came of it, was over."""

    way: Way
    done: Sequence[Done]
    paid_pod_s: float
    paid_serverless_s: float
    cost: float

    def of(self, kind: Kind) -> list[Done]:
        return [done for done in self.done if done.job.kind is kind]


def simulate(way: Way, world: World, jobs: Sequence[Job], seed: int) -> Outcome:
    """The same for the same arguments."""
    agenda, draw = Agenda(), np.random.default_rng(seed)
    places = _places(way, world, agenda, draw)
    everyone = _Everyone(agenda, places, world, draw)
    for job in jobs:
        everyone.expect(job)
    agenda.run()
    end_s = max(DAY_S, *(done.last_s for done in everyone.done)) if everyone.done else DAY_S
    paid_s = {name: place.paid_s(end_s) for name, place in places.items()}
    pod_s, serverless_s = paid_s.get(BackendName.POD, 0.0), paid_s.get(BackendName.SERVERLESS, 0.0)
    cost = pod_s / _HOUR_S * world.pod_per_hour + serverless_s * world.serverless_per_s
    return Outcome(way, everyone.done, pod_s, serverless_s, cost)


def _places(way: Way, world: World, agenda: Agenda, draw: np.random.Generator) -> dict[BackendName, Place]:
    places = dict[BackendName, Place]()
    if way.pods or way.rule:
        pods = Pods(agenda, world.speed, world.pod_limits, line_s=world.pod_line_s)
        for _ in range(way.pods):
            pods.add(0.0)
        if way.rule:
            Autoscaler(agenda, pods, way.rule, start_s=world.pod_start_s, end_s=DAY_S)
        places[BackendName.POD] = pods
    if way.serverless:
        places[BackendName.SERVERLESS] = Serverless(
            agenda,
            world.speed,
            world.endpoint,
            world.pod_limits.max_batch,
            line_s=world.serverless_line_s,
            draw=draw,
        )
    return places


@dataclass(slots=True, eq=False)
class _Everyone:
    """Front ends that stay, and workers that come with their job."""

    agenda: Agenda
    places: dict[BackendName, Place]
    world: World
    draw: np.random.Generator
    done: list[Done] = field(default_factory=list)
    front_ends: Iterator[Caller] = field(init=False)

    def __post_init__(self) -> None:
        self.front_ends = cycle([self._caller() for _ in range(self.world.front_ends)])

    def _caller(self) -> Caller:
        return Caller(self.agenda, self.places, self.world.client, self.draw)

    def expect(self, job: Job) -> None:
        done = Done(job)
        self.done.append(done)
        begin = self._search if job.kind is Kind.SEARCH else self._images
        self.agenda.at(job.at_s, lambda: begin(done))

    def _search(self, done: Done) -> None:
        next(self.front_ends).call(Modality.TEXT, 1, lambda came: self._note(done, 1, came=came))

    def _images(self, done: Done) -> None:
        left = done.job.items

        def next_batch(caller: Caller) -> None:
            nonlocal left
            if left == 0:
                return
            items = min(BATCH, left)
            left -= items

            def ended(came: bool) -> None:
                self._note(done, items, came=came)
                next_batch(caller)

            caller.call(Modality.IMAGE, items, ended)

        for _ in range(done.job.workers):
            caller = self._caller()
            for _ in range(self.world.client.clip_concurrent_batches):
                next_batch(caller)

    def _note(self, done: Done, items: int, *, came: bool) -> None:
        done.last_s = self.agenda.now_s
        if came:
            done.answered += items
        else:
            done.lost += items
