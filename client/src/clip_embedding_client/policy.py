"""All of the policy put together, without input or output: what both clients are made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from clip_embedding_client.backends import Backend, create_backend
from clip_embedding_client.batching import Chunk, Chunker
from clip_embedding_client.breaker import Breaker
from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import Flow
from clip_embedding_client.errors import ClipClientError, ConfigurationError
from clip_embedding_client.events import Events, OnEvent
from clip_embedding_client.fingerprints import Dimensions
from clip_embedding_client.images import LoadedImage
from clip_embedding_client.lane import Lane
from clip_embedding_client.operations import Sendable, Sign, Single, signer
from clip_embedding_client.retry import Budget, RetryPolicy
from clip_embedding_client.router import Router
from clip_embedding_client.settings import MOST_SECONDS, BackendName, ClientSettings
from clip_embedding_client.traces import Tracing, start_tracing
from clip_embedding_client.values import Embedding, Health, Outcome, TextItem

# Batches whose results wait for those before them, beside each one that is on its way. While the first is tried
# again, the others go on so far; and no more results than these are held.
_BATCHES_IN_WINDOW = 16


@dataclass(frozen=True, slots=True)
class Policy:
    """Flows for whatever a client does; thread-safe. Close it after the driver has ended."""

    settings: ClientSettings
    clock: Clock
    events: Events
    lanes: Sequence[Lane]
    router: Router
    tracing: Tracing | None = None

    @classmethod
    def of(cls, settings: ClientSettings, clock: Clock | None = None, on_event: OnEvent | None = None) -> Policy:
        """Nothing is connected yet. Raises `ConfigurationError` naming the variable that is missing."""
        names = settings.backends()
        if len(set(names)) < len(names):
            raise ConfigurationError("CLIP_FALLBACK_BACKEND is the same as CLIP_INFERENCE_BACKEND")
        clock = clock or Clock()
        backends = [create_backend(name, settings, clock) for name in names]
        return cls.over(backends, settings, clock, on_event, tracing=start_tracing(os.environ))

    @classmethod
    def over(
        cls,
        backends: Sequence[Backend],
        settings: ClientSettings,
        clock: Clock,
        on_event: OnEvent | None = None,
        *,
        tracing: Tracing | None = None,
    ) -> Policy:
        """Over one backend, or over a primary and a fallback."""
        events = Events(on_event)
        retry = RetryPolicy(clock, events)
        sign, dimensions = signer(settings.embedding_hmac_secret, clock.now), Dimensions()
        lanes = [_lane(backend, settings, retry, sign, dimensions) for backend in backends]
        fallback = lanes[1] if len(lanes) > 1 else None
        router = Router(
            lanes[0],
            fallback,
            policy=retry,
            reserve_s=settings.reserve_s(BackendName(fallback.name)) if fallback else 0.0,
            expected_fingerprint=settings.clip_expected_fingerprint,
            allow_mismatch=settings.clip_allow_fingerprint_mismatch,
        )
        return cls(settings, clock, events, lanes, router, tracing)

    def single(self, item: LoadedImage | TextItem, timeout_s: float | None, max_retries: int | None) -> Flow[Embedding]:
        """The vector of one item. Raises a `ClipClientError`."""
        flow = self._single(item, timeout_s, max_retries)
        return flow if self.tracing is None else self.tracing.call(flow, "embed", items=1)

    def _single(
        self, item: LoadedImage | TextItem, timeout_s: float | None, max_retries: int | None
    ) -> Flow[Embedding]:
        [outcome] = yield from self.router.call(Single(item), self.budget(timeout_s, max_retries))
        if isinstance(outcome, ClipClientError):
            raise outcome
        return outcome

    def chunk(self, chunk: Chunk[Sendable], timeout_s: float | None, max_retries: int | None) -> Flow[list[Outcome]]:
        """One outcome per item of it, in order; its time begins now. Raises `BackendOff` and `ConfigurationError`."""
        flow = self._chunk(chunk, timeout_s, max_retries)
        return flow if self.tracing is None else self.tracing.call(flow, "embed batch", items=len(chunk))

    def _chunk(self, chunk: Chunk[Sendable], timeout_s: float | None, max_retries: int | None) -> Flow[list[Outcome]]:
        return (yield from chunk.send(self.router, self.budget(timeout_s, max_retries)))

    def image_chunks(self) -> Chunker[LoadedImage]:
        return Chunker(self.settings.clip_batch_size)

    def text_chunks(self) -> Chunker[TextItem]:
        return Chunker(self.settings.clip_text_batch_size)

    @property
    def concurrency(self) -> int:
        """How many chunks may be on their way."""
        return self.settings.clip_concurrent_batches

    @property
    def window(self) -> int:
        """How many chunks may be on their way or wait for those before them."""
        return self.concurrency + _BATCHES_IN_WINDOW

    def health(self, timeout_s: float | None) -> Flow[Health]:
        """Of the chosen backend, asked once. Raises a `ClipClientError`."""
        return (yield from self.lanes[0].health(self._total_s(timeout_s)))

    def budget(self, timeout_s: float | None, max_retries: int | None) -> Budget:
        """Of a call that begins now. Raises `ConfigurationError` for arguments that no call can have."""
        total_s = self._total_s(timeout_s)
        if max_retries is not None and max_retries < 0:
            raise ConfigurationError("max_retries must be 0 or more")
        attempts = self.settings.clip_retry_attempts if max_retries is None else max_retries + 1
        return Budget(attempts, self.clock.monotonic() + total_s)

    def _total_s(self, timeout_s: float | None) -> float:
        if timeout_s is None:
            return self.settings.clip_total_timeout_s
        if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= MOST_SECONDS:
            raise ConfigurationError(f"timeout must be seconds, more than 0 and at most {MOST_SECONDS:,}")
        return timeout_s

    def close(self) -> None:
        """Release what backends hold themselves: for `local`, the model."""
        for lane in self.lanes:
            lane.backend.close()
        if self.tracing is not None:
            self.tracing.close()


def _lane(backend: Backend, settings: ClientSettings, retry: RetryPolicy, sign: Sign, dimensions: Dimensions) -> Lane:
    breaker = Breaker(
        max_failures=settings.clip_breaker_failures,
        cool_down_s=settings.clip_breaker_cool_down_s,
        monotonic=retry.clock.monotonic,
    )
    return Lane(backend, breaker, retry, sign, dimensions)
