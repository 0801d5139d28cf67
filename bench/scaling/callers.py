"""The callers: the real client's router, breaker and retries (`clip_embedding_client`), driven in simulated time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from clip_embedding_client.breaker import Breaker
from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import Effect, Exchange, Flow, Pause
from clip_embedding_client.errors import BackendTimeout, ClipClientError
from clip_embedding_client.events import Events
from clip_embedding_client.fingerprints import Dimensions
from clip_embedding_client.lane import Lane
from clip_embedding_client.operations import Operation, Sign
from clip_embedding_client.retry import Budget, RetryPolicy
from clip_embedding_client.router import Router
from clip_embedding_client.settings import BackendName, ClientSettings
from clip_embedding_client.values import Body, Embedding, Outcome

from bench.scaling.agenda import Agenda
from bench.scaling.places import Place
from core.batching.items import Modality

# Both backends serve one model, and the client has been told which.
_FINGERPRINT = "2-0000000000000000"
_EMBEDDING = Embedding(np.ones(1, dtype=np.float32), "", _FINGERPRINT, True, {}, False, False, "")
_MODALITY, _ITEMS = "modality", "items"


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request. It has one outcome for all of its items: in this simulation they live and die together."""

    modality: Modality
    items: int

    path = ""
    request_ids = ("",)

    def body(self, sign: Sign) -> Body:
        return {_MODALITY: self.modality, _ITEMS: self.items}

    def read(self, answer: object, backend: str) -> list[Outcome]:
        return [_EMBEDDING]

    def only(self, positions: Sequence[int]) -> Operation:
        return self


@dataclass(frozen=True, slots=True)
class _Backend:
    """A place under the name of a backend. `most_s` is the client's setting for one attempt there."""

    name: str
    most_s: float

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        return (yield Exchange("POST", self.name, min(timeout_s, self.most_s), body))

    def health(self, *, timeout_s: float) -> Flow[object]:
        raise NotImplementedError("the fingerprint is known, so nobody asks")

    def close(self) -> None:
        """Holds nothing."""


class Caller:
    """One process that uses the client: it has a breaker of its own for each place."""

    def __init__(
        self, agenda: Agenda, places: Mapping[BackendName, Place], settings: ClientSettings, draw: np.random.Generator
    ) -> None:
        """The first of `places` is the primary, a second one the fallback."""
        self._agenda = agenda
        self._places = {name.value: place for name, place in places.items()}
        self._settings = settings
        clock = Clock(now=agenda.now, monotonic=agenda.now)
        policy = RetryPolicy(clock, Events(), jitter=lambda low, high: float(draw.uniform(low, high)))
        lanes = [self._lane(name, policy) for name in places]
        self._router = Router(
            lanes[0],
            lanes[1] if len(lanes) > 1 else None,
            policy=policy,
            reserve_s=settings.reserve_s(list(places)[1]) if len(lanes) > 1 else 0.0,
            expected_fingerprint=_FINGERPRINT,
            allow_mismatch=False,
        )

    def _lane(self, name: BackendName, policy: RetryPolicy) -> Lane:
        settings = self._settings
        most_s = {
            BackendName.POD: settings.clip_pod_timeout_s,
            BackendName.SERVERLESS: settings.runpod_timeout_s,
        }[name]
        breaker = Breaker(
            max_failures=settings.clip_breaker_failures,
            cool_down_s=settings.clip_breaker_cool_down_s,
            monotonic=self._agenda.now,
        )
        return Lane(_Backend(name.value, most_s), breaker, policy, lambda _path, _payload: {}, Dimensions())

    def call(self, modality: Modality, items: int, done: Callable[[bool], None]) -> None:
        """Ask for the vectors of one request; `done` takes whether they came."""
        budget = Budget(self._settings.clip_retry_attempts, self._agenda.now_s + self._settings.clip_total_timeout_s)
        flow = self._router.call(_Asked(modality, items), budget)
        self._go_on(flow, lambda: next(flow), done)

    def _go_on(self, flow: Flow[list[Outcome]], resume: Callable[[], Effect], done: Callable[[bool], None]) -> None:
        try:
            effect = resume()
        except StopIteration as ended:
            [outcome] = ended.value
            done(isinstance(outcome, Embedding))
            return
        if isinstance(effect, Pause):
            self._agenda.after(effect.seconds, lambda: self._go_on(flow, lambda: next(flow), done))
        elif isinstance(effect, Exchange):
            self._exchange(effect, flow, done)

    def _exchange(self, asked: Exchange, flow: Flow[list[Outcome]], done: Callable[[bool], None]) -> None:
        waits = True

        def settle(error: ClipClientError | None) -> None:
            nonlocal waits
            if waits:
                waits = False
                self._go_on(flow, (lambda: flow.send({})) if error is None else (lambda: flow.throw(error)), done)

        def give_up() -> None:
            if waits:
                abandon()
                settle(BackendTimeout("no answer in time"))

        body = asked.body or {}
        abandon = self._places[asked.url].ask(body[_MODALITY], body[_ITEMS], settle)
        self._agenda.after(asked.timeout_s, give_up)
