"""URLs and texts to vectors: fetch, decode, batch, encode. Blocking; called from a request's own thread.

Knows neither the wire format nor a transport. Single images and batches take the same way.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.batching.batcher import Batcher
from core.batching.items import Encoded, Modality
from core.batching.turns import Arrivals, Turns
from core.byte_budget import ByteBudget
from core.clip.engine import Pixels, TokenIds
from core.deadline import Deadline
from core.embedding import Embedding, Vector
from core.errors import DeadlineExceeded, InternalError, NotReady, ServiceError

logger = logging.getLogger(__name__)


class Fetch(Protocol):
    """Downloads the bytes of a URL, or raises an `ImageError`, `DeadlineExceeded` or what `reserve` raises.

    `reserve` is told of bytes before they are kept.
    """

    def __call__(self, url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """One image to embed; `normalize` asks for L2 norm 1."""

    image_url: str
    normalize: bool


@dataclass(frozen=True, slots=True)
class _Prepared:
    pixels: Pixels
    download_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Pools:
    """The threads of the house: downloads are many and wait, decodes are as many as there are cores."""

    downloads: ThreadPoolExecutor
    decodes: ThreadPoolExecutor

    def close(self) -> None:
        """Wait for what runs, drop what has not begun."""
        self.downloads.shutdown(cancel_futures=True)
        self.decodes.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class ImageMemory:
    """What running requests may hold of images: `pixel_bytes` for each one decoded, and downloads as they grow."""

    budget: ByteBudget
    pixel_bytes: int


class Embedder:
    """`concurrency` bounds the downloads of one request; `pools` bounds those of all, and `memory` their bytes.

    `turns` are the batcher's.
    """

    def __init__(
        self,
        *,
        fetch: Fetch,
        decode: Callable[[bytes], Pixels],
        tokenize: Callable[[str], tuple[TokenIds, bool]],
        batcher: Batcher,
        pools: Pools,
        memory: ImageMemory,
        concurrency: int,
        turns: Turns | None = None,
    ) -> None:
        self._fetch = fetch
        self._decode = decode
        self._tokenize = tokenize
        self._batcher = batcher
        self._pools = pools
        self._memory = memory
        self._concurrency = concurrency
        self._turns = turns or Turns(shared=False)

    def embed_images(self, wanted: Sequence[Wanted], deadline: Deadline) -> list[Embedding | ServiceError]:
        """Return one result per image, in order: an embedding, or the error of that image alone.

        Two phases: all downloads at once, then all decoded images into the batcher together. Raises `Overloaded`
        when there is no memory for the images, and `Overloaded` or `NotReady` when the batcher takes nothing.
        """
        with self._memory.budget.lease(len(wanted) * self._memory.pixel_bytes):
            return self._embed_images(wanted, deadline)

    def _embed_images(self, wanted: Sequence[Wanted], deadline: Deadline) -> list[Embedding | ServiceError]:
        started_s = time.monotonic()
        arrivals = Arrivals(self._turns, len(wanted))
        try:
            prepared = self._prepare_all([image.image_url for image in wanted], deadline, arrivals)
            ready = [result for result in prepared if isinstance(result, _Prepared)]
            futures = self._submit(Modality.IMAGE, [image.pixels for image in ready], deadline)
        finally:
            arrivals.queued()
        encoded = iter([_outcome(future, deadline) for future in futures])
        return [
            result if isinstance(result, ServiceError) else _finish(image, result, next(encoded), started_s)
            for image, result in zip(wanted, prepared, strict=True)
        ]

    def embed_text(self, text: str, *, normalize: bool, deadline: Deadline) -> Embedding:
        """Return the embedding of a text; one that is too long is cut and says so. Raises a `ServiceError`."""
        started_s = time.monotonic()
        token_ids, truncated = self._tokenize(text)
        [future] = self._submit(Modality.TEXT, [token_ids], deadline)
        row = _outcome(future, deadline)
        if isinstance(row, ServiceError):
            raise row
        timings = _timings(started_s, queue_ms=row.queue_ms, inference_ms=row.inference_ms)
        return Embedding(_scaled(row.vector, normalize), timings, truncated)

    def _prepare_all(
        self, urls: Sequence[str], deadline: Deadline, arrivals: Arrivals
    ) -> list[_Prepared | ServiceError]:
        results: list[_Prepared | ServiceError] = [DeadlineExceeded()] * len(urls)
        positions = iter(range(len(urls)))
        lock = threading.Lock()

        def work() -> None:
            while not deadline.expired:
                with lock:
                    position = next(positions, None)
                if position is None:
                    return
                results[position] = self._prepare(urls[position], deadline, arrivals)

        count = min(self._concurrency, len(urls))
        _join([self._pools.downloads.submit(work) for _ in range(count)], deadline)
        return results

    def _prepare(self, url: str, deadline: Deadline, arrivals: Arrivals) -> _Prepared | ServiceError:
        started_s = time.monotonic()
        try:
            if not self._batcher.healthy:
                return NotReady()
            with self._memory.budget.lease() as downloaded:
                with arrivals.downloading():
                    data = self._fetch(url, deadline=deadline, reserve=downloaded.add)
                fetched_s = time.monotonic()
                pixels = self._decode_in_turn(data, deadline, arrivals)
        except ServiceError as error:
            return error
        except Exception:
            # Ours to mend, and no reason to lose the other items of the batch.
            logger.exception("an image could not be prepared")
            return InternalError()
        return _Prepared(pixels, (fetched_s - started_s) * 1000, (time.monotonic() - fetched_s) * 1000)

    def _decode_in_turn(self, data: bytes, deadline: Deadline, arrivals: Arrivals) -> Pixels:
        decoding = self._pools.decodes.submit(self._decode_in_time, data, deadline)
        arrivals.announce()
        decoding.add_done_callback(lambda _settled: arrivals.decoded())
        try:
            return decoding.result(timeout=deadline.remaining_s())
        except TimeoutError as error:
            decoding.cancel()
            raise DeadlineExceeded from error

    def _decode_in_time(self, data: bytes, deadline: Deadline) -> Pixels:
        with self._turns.decoding():
            if deadline.expired:
                raise DeadlineExceeded
            return self._decode(data)

    def _submit(
        self, modality: Modality, payloads: Sequence[npt.NDArray[np.generic]], deadline: Deadline
    ) -> list["Future[Encoded]"]:
        if not payloads:
            return []
        futures = self._batcher.submit(modality, payloads, deadline)
        if deadline.cancellation is not None:
            # A request whose caller has gone gives its place back at once, not when the device gets to its items.
            deadline.cancellation.then(lambda: [future.cancel() for future in futures])
        return futures


def _join(lanes: Sequence["Future[None]"], deadline: Deadline) -> None:
    """Wait for the downloads of a request, whose lanes are done when no image is left to begin."""
    wait(lanes, timeout=deadline.remaining_s(), return_when=FIRST_COMPLETED)
    # A lane that has got no thread by now is not needed, or is too late. What runs ends by the deadline.
    running = [lane for lane in lanes if not lane.cancel()]
    for lane in running:
        lane.result()


def _outcome(future: "Future[Encoded]", deadline: Deadline) -> Encoded | ServiceError:
    try:
        return future.result(timeout=deadline.remaining_s())
    except (TimeoutError, CancelledError):
        future.cancel()
        return DeadlineExceeded()
    except ServiceError as error:
        return error


def _finish(
    image: Wanted, prepared: _Prepared, row: Encoded | ServiceError, started_s: float
) -> Embedding | ServiceError:
    if isinstance(row, ServiceError):
        return row
    timings = _timings(
        started_s,
        download_ms=prepared.download_ms,
        decode_ms=prepared.decode_ms,
        queue_ms=row.queue_ms,
        inference_ms=row.inference_ms,
    )
    return Embedding(_scaled(row.vector, image.normalize), timings)


def _timings(started_s: float, **parts_ms: float) -> dict[str, float]:
    total_ms = (time.monotonic() - started_s) * 1000
    return {name: round(value, 3) for name, value in (*parts_ms.items(), ("total_ms", total_ms))}


def _scaled(vector: Vector, normalize: bool) -> Vector:
    """L2-normalise in float32 where asked; the batcher has refused zero and infinite norms."""
    return vector / np.linalg.norm(vector) if normalize else vector
