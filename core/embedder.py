"""Images and texts to vectors: image processes, scheduler, devices. Blocking; called from a request's own thread.

Knows neither the wire format nor a transport. Single images and batches take the same way.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from core import tracing
from core.batching.items import Encoded, Group, Item, Modality, outcomes
from core.batching.scheduler import Scheduler
from core.byte_budget import ByteBudget
from core.cache import Cache, Compute, Key
from core.clip.engine import TokenIds
from core.deadline import Deadline
from core.embedding import Embedding, Vector
from core.errors import InternalError, ServiceError
from core.images.content import SentImage
from core.images.job import ImageJob
from core.metrics import Reading


class Images(Protocol):
    """Turns URLs and bytes into pixels elsewhere; see `core.images.pool.ImageProcesses`."""

    def begin(self, jobs: Sequence[ImageJob], *, at_once: int) -> None: ...

    def release(self, jobs: Iterable[ImageJob]) -> None: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """One image to embed, by URL or as it was sent; `normalize` asks for L2 norm 1."""

    image: str | SentImage
    normalize: bool


@dataclass(frozen=True, slots=True)
class WantedText:
    """One text to embed; `normalize` asks for L2 norm 1."""

    text: str
    normalize: bool


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of a text, how wide they are padded in a pass, and whether the text was cut to fit."""

    ids: TokenIds
    width: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class ImageMemory:
    """What running requests may hold of images that are decoded: `pixel_bytes` for each."""

    budget: ByteBudget
    pixel_bytes: int


class Arrivals:
    """Tells the scheduler, the cache and whoever waits what becomes of images: a `core.images.job.Listener`."""

    def __init__(self, scheduler: Scheduler, cache: Cache | None) -> None:
        self._scheduler = scheduler
        self._cache = cache

    def fetched(self, jobs: Sequence[ImageJob]) -> None:
        self._claim(jobs, self._scheduler.add_fetched)

    def ended(self, jobs: Sequence[ImageJob]) -> None:
        for job in jobs:
            if job.error is not None:
                job.owner.settle(job.error)
        # Where decodes take turns, whoever is granted one has claimed its row before that. Nobody is granted one in a
        # process for slow images, which may have been given another file than was fetched before.
        unclaimed = [job for job in jobs if job.error is None and not job.claimed]
        others = [job.owner for job in jobs if job.error is not None or job.claimed]
        if others:
            self._scheduler.add_decoded(others)
        if unclaimed:
            self._claim(unclaimed, self._scheduler.add_decoded)

    def _claim(self, jobs: Sequence[ImageJob], compute: Compute) -> None:
        if self._cache is None:
            compute([job.owner for job in jobs])
            return
        for job in jobs:
            job.claimed = True
        # On the thread that reads what an image process says: no other image of it may wait for a lookup.
        self._cache.claim([(job.owner, _key(self._cache, job)) for job in jobs], compute, may_block=False)

    def delayed(self, jobs: Sequence[ImageJob]) -> None:
        # One that is slow is decoded where it is: it is still the file that was claimed.
        again = [job for job in jobs if not job.slow]
        for job in again:
            job.claimed = False
        if self._cache is not None:
            self._cache.put_off([job.owner for job in again])
        self._scheduler.withdraw([job.owner for job in jobs])


class Embedder:
    """`concurrency` bounds the downloads of one request, `memory` what all requests hold of images. Without a `cache`
    everything is embedded each time.
    """

    def __init__(
        self,
        *,
        images: Images,
        tokenize: Callable[[str], Tokens],
        scheduler: Scheduler,
        memory: ImageMemory,
        concurrency: int,
        cache: Cache | None,
    ) -> None:
        self._images = images
        self._tokenize = tokenize
        self._scheduler = scheduler
        self._memory = memory
        self._concurrency = concurrency
        self._cache = cache

    def embed_images(self, wanted: Sequence[Wanted], deadline: Deadline) -> list[Embedding | ServiceError]:
        """Return one result per image, in order: an embedding, or the error of that image alone.

        Raises `Overloaded` when there is no memory or no place for the images, and `NotReady` when nothing is taken.
        """
        with self._memory.budget.lease(len(wanted) * self._memory.pixel_bytes):
            group = Group(deadline)
            jobs = [_job(one.image, deadline) for one in wanted]
            items = [_item(group, job) for job in jobs]
            with self._scheduler.entered(items), _settled_in_the_end(items):
                try:
                    if to_begin := self._to_begin(jobs):
                        self._images.begin(to_begin, at_once=self._concurrency)
                    rows = outcomes(group, items)
                finally:
                    self._images.release(jobs)
        tracing.note_images(group, jobs, rows)
        return [_embedding(*parts, group.arrived_s) for parts in zip(wanted, jobs, rows, strict=True)]

    def readings(self) -> Iterator[Reading]:
        """What is held of images that are decoded, for metrics."""
        return self._memory.budget.readings("pixels")

    def _to_begin(self, jobs: Sequence[ImageJob]) -> list[ImageJob]:
        """Not what cannot be had, nor what was sent and is known."""
        possible = [job for job in jobs if job.error is None]
        if self._cache is None:
            return possible
        sent = [job for job in possible if job.content is not None]
        self._cache.settle_known([(job.owner, _key(self._cache, job)) for job in sent])
        return [job for job in possible if job.owner.outcome is None]

    def _claim_texts(self, items: Sequence[Item]) -> None:
        cache = self._cache
        if cache is None:
            self._scheduler.add_texts(items)
            return
        cache.claim(
            [(item, cache.key(Modality.TEXT, item.payload.tobytes())) for item in items], self._scheduler.add_texts
        )

    def embed_texts(self, wanted: Sequence[WantedText], deadline: Deadline) -> list[Embedding | ServiceError]:
        """Return one result per text, in order; one that is too long is cut and says so.

        Raises `Overloaded` when there is no place for the texts, and `NotReady` when nothing is taken.
        """
        tokens = [self._tokenize(one.text) for one in wanted]
        group = Group(deadline)
        items = [Item(Modality.TEXT, group, one.ids, one.width, len(one.ids)) for one in tokens]
        with self._scheduler.entered(items), _settled_in_the_end(items):
            self._claim_texts(items)
            rows = outcomes(group, items)
        tracing.note_texts(group, rows)
        triples = zip(wanted, tokens, rows, strict=True)
        return [
            row
            if isinstance(row, ServiceError)
            else Embedding(
                _scaled(row, one.normalize), _timings(group.arrived_s, row), cut.truncated, len(cut.ids), row.cached
            )
            for one, cut, row in triples
        ]


@contextmanager
def _settled_in_the_end(items: Sequence[Item]) -> Iterator[None]:
    """However the block ends: somebody else's request may be waiting for the row of one of these."""
    try:
        yield
    finally:
        for item in items:
            item.settle(InternalError())


def _key(cache: Cache, job: ImageJob) -> Key:
    return cache.key(Modality.IMAGE, job.sha256.encode())


def _job(image: str | SentImage, deadline: Deadline) -> ImageJob:
    if isinstance(image, str):
        return ImageJob(image, deadline)
    return ImageJob("", deadline, image.content, error=image.error, sha256=image.payload_id or "")


def _item(group: Group, job: ImageJob) -> Item:
    item = Item(Modality.IMAGE, group, job)
    job.owner = item
    if job.error is not None:
        item.settle(job.error)
    return item


def _embedding(image: Wanted, job: ImageJob, row: Encoded | ServiceError, arrived_s: float) -> Embedding | ServiceError:
    if isinstance(row, ServiceError):
        return row
    download = {"download_ms": job.download_ms} if job.content is None else {}
    timings = _timings(arrived_s, row, **download, decode_ms=job.decode_ms)
    return Embedding(_scaled(row, image.normalize), timings, cached=row.cached)


def _timings(arrived_s: float, row: Encoded, **parts_ms: float) -> dict[str, float]:
    """What is no part of its own, from the request's arrival to the pass, is time in a queue."""
    before_ms = (row.began_s - arrived_s) * 1000
    total_ms = (time.monotonic() - arrived_s) * 1000
    queue_ms = max(0.0, before_ms - sum(parts_ms.values()))
    timings = {**parts_ms, "queue_ms": queue_ms, "inference_ms": row.inference_ms, "total_ms": total_ms}
    return {name: round(value, 3) for name, value in timings.items()}


def _scaled(row: Encoded, normalize: bool) -> Vector:
    """L2-normalise in float32 where asked; the device has refused zero and infinite norms."""
    vector: Vector = row.vector / row.norm if normalize else row.vector
    return vector
