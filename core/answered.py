"""What became of the images and texts that were begun, and how long each stage took them."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from core import metrics
from core.batching.items import Modality
from core.deadline import Deadline
from core.embedder import Wanted, WantedText
from core.embedding import Embedding
from core.errors import DeadlineExceeded, InternalError, ServiceError
from core.metrics import Distribution, Reading

Result = Embedding | ServiceError

# By the names that timings have in an answer. A row that was cached has been through neither queue nor pass.
_OF_IMAGES = {"download_ms": "download", "decode_ms": "decode", "queue_ms": "queue", "inference_ms": "forward"}
_OF_TEXTS = {"queue_ms": "queue", "inference_ms": "forward"}
_BEFORE_THE_CACHE = frozenset({"download_ms", "decode_ms"})


class Embeds(Protocol):
    """See `core.embedder.Embedder`."""

    def embed_images(self, wanted: Sequence[Wanted], deadline: Deadline) -> list[Result]: ...

    def embed_texts(self, wanted: Sequence[WantedText], deadline: Deadline) -> list[Result]: ...


class _Stages:
    """The distributions of one modality; under the lock of `Answered`."""

    def __init__(self, stages: Mapping[str, str]) -> None:
        self.by_timing = {timing: Distribution(metrics.STAGE_SECONDS) for timing in stages}
        self.names = stages

    def note(self, embeddings: Sequence[Embedding]) -> None:
        """What their timings say; a stage that one did not go through is not noted. Stage by stage: it is done for
        every item, and costs least so.
        """
        computed = [one.timings for one in embeddings if not one.cached]
        cached = [one.timings for one in embeddings if one.cached]
        for timing, distribution in self.by_timing.items():
            distribution.note_all([timings[timing] / 1000 for timings in computed if timing in timings])
            if cached and timing in _BEFORE_THE_CACHE:
                distribution.note_all([timings[timing] / 1000 for timings in cached if timings.get(timing)])


class Answered:
    """Thread-safe. Items are counted when their request has all of them: one lock for a batch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items = Counter[tuple[str, str, str]]()
        self._stages = {Modality.IMAGE: _Stages(_OF_IMAGES), Modality.TEXT: _Stages(_OF_TEXTS)}

    def note(self, modality: Modality, client: str, results: Sequence[Result], *, gone: bool = False) -> None:
        """What became of the items of one request, or of its part of one modality; `gone` if nobody waits for it."""
        embeddings = [result for result in results if isinstance(result, Embedding)]
        errors = [result for result in results if isinstance(result, ServiceError)]
        with self._lock:
            if embeddings:
                self._items[modality.value, client, metrics.OK] += len(embeddings)
                self._stages[modality].note(embeddings)
            for error in errors:
                self._items[modality.value, client, _code(error, gone=gone)] += 1

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        with self._lock:
            items = dict(self._items)
            stages = {
                (modality.value, of_modality.names[timing]): distribution.copy()
                for modality, of_modality in self._stages.items()
                for timing, distribution in of_modality.by_timing.items()
            }
        for labels, count in items.items():
            yield Reading(metrics.ITEMS, labels, count)
        for stage, distribution in stages.items():
            yield Reading(metrics.STAGE_SECONDS, stage, distribution)


def _code(error: ServiceError, *, gone: bool) -> str:
    """The deadline of one who has gone has passed, and not for want of time."""
    return metrics.GONE if gone and isinstance(error, DeadlineExceeded) else error.code


class Counting:
    """The embedder as one request sees it: what becomes of its items is noted under its `client`."""

    def __init__(self, embedder: Embeds, answered: Answered, client: str) -> None:
        self._embedder = embedder
        self._answered = answered
        self.client = client
        self._results: list[Result] = []

    def embed_images(self, wanted: Sequence[Wanted], deadline: Deadline) -> list[Result]:
        """See `Embedder.embed_images`."""
        embed = self._embedder.embed_images
        return self._noted(Modality.IMAGE, len(wanted), lambda: embed(wanted, deadline), deadline)

    def embed_texts(self, wanted: Sequence[WantedText], deadline: Deadline) -> list[Result]:
        """See `Embedder.embed_texts`."""
        embed = self._embedder.embed_texts
        return self._noted(Modality.TEXT, len(wanted), lambda: embed(wanted, deadline), deadline)

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds in each stage, of the item that was longest in it: they go through a stage side by side."""
        longest: dict[str, float] = {}
        for result in self._results:
            if isinstance(result, Embedding):
                longest |= {name: max(took, longest.get(name, 0.0)) for name, took in result.timings.items()}
        return longest

    def _noted(
        self, modality: Modality, items: int, embed: Callable[[], list[Result]], deadline: Deadline
    ) -> list[Result]:
        try:
            results = embed()
        except ServiceError as error:
            self._answered.note(modality, self.client, [error] * items, gone=deadline.cancelled)
            raise
        except Exception:
            self._answered.note(modality, self.client, [InternalError()] * items, gone=deadline.cancelled)
            raise
        self._answered.note(modality, self.client, results, gone=deadline.cancelled)
        self._results += results
        return results
