"""URLs and texts to vectors: fetch, decode, batch, encode. Blocking; called from a request's own thread.

Knows neither the wire format nor a transport. Single images and batches take the same way.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.batcher import Batcher, Encoded, Modality
from core.clip.engine import Pixels, TokenIds
from core.deadline import Deadline
from core.errors import DeadlineExceeded, InternalError, ServiceError

logger = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]


class Fetch(Protocol):
    """Downloads the bytes of a URL, or raises an `ImageError` or `DeadlineExceeded`."""

    def __call__(self, url: str, *, deadline: Deadline) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Embedding:
    """A float32 (dim,) vector with the milliseconds it took; `truncated` when a text was cut to fit."""

    vector: Vector
    timings: dict[str, float]
    truncated: bool = False


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


class Embedder:
    """`concurrency` bounds the downloads of one request; `pools` bounds those of all."""

    def __init__(
        self,
        *,
        fetch: Fetch,
        decode: Callable[[bytes], Pixels],
        tokenize: Callable[[str], tuple[TokenIds, bool]],
        batcher: Batcher,
        pools: Pools,
        concurrency: int,
    ) -> None:
        self._fetch = fetch
        self._decode = decode
        self._tokenize = tokenize
        self._batcher = batcher
        self._pools = pools
        self._concurrency = concurrency

    def embed_images(self, wanted: Sequence[Wanted], deadline: Deadline) -> list[Embedding | ServiceError]:
        """Return one result per image, in order: an embedding, or the error of that image alone.

        Two phases: all downloads at once, then all decoded images into the batcher together. Raises `Overloaded`
        or `NotReady` when the batcher takes nothing.
        """
        started_s = time.monotonic()
        prepared = self._prepare_all([image.image_url for image in wanted], deadline)
        ready = [result for result in prepared if isinstance(result, _Prepared)]
        encoded = iter(self._encode(Modality.IMAGE, [image.pixels for image in ready], deadline))
        return [
            result if isinstance(result, ServiceError) else _finish(image, result, next(encoded), started_s)
            for image, result in zip(wanted, prepared, strict=True)
        ]

    def embed_text(self, text: str, *, normalize: bool, deadline: Deadline) -> Embedding:
        """Return the embedding of a text; one that is too long is cut and says so. Raises a `ServiceError`."""
        started_s = time.monotonic()
        token_ids, truncated = self._tokenize(text)
        [row] = self._encode(Modality.TEXT, [token_ids], deadline)
        if isinstance(row, ServiceError):
            raise row
        timings = _timings(started_s, queue_ms=row.queue_ms, inference_ms=row.inference_ms)
        return Embedding(_scaled(row.vector, normalize), timings, truncated)

    def _prepare_all(self, urls: Sequence[str], deadline: Deadline) -> list[_Prepared | ServiceError]:
        results: list[_Prepared | ServiceError] = [DeadlineExceeded()] * len(urls)
        positions = iter(range(len(urls)))
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    position = next(positions, None)
                if position is None:
                    return
                results[position] = self._prepare(urls[position], deadline)

        lanes = min(self._concurrency, len(urls))
        for lane in [self._pools.downloads.submit(work) for _ in range(lanes)]:
            lane.result()
        return results

    def _prepare(self, url: str, deadline: Deadline) -> _Prepared | ServiceError:
        started_s = time.monotonic()
        try:
            data = self._fetch(url, deadline=deadline)
            fetched_s = time.monotonic()
            pixels = self._pools.decodes.submit(self._decode_in_time, data, deadline).result()
        except ServiceError as error:
            return error
        except Exception:
            # Ours to mend, and no reason to lose the other items of the batch.
            logger.exception("an image could not be prepared")
            return InternalError()
        return _Prepared(pixels, (fetched_s - started_s) * 1000, (time.monotonic() - fetched_s) * 1000)

    def _decode_in_time(self, data: bytes, deadline: Deadline) -> Pixels:
        if deadline.expired:
            raise DeadlineExceeded
        return self._decode(data)

    def _encode(
        self, modality: Modality, payloads: Sequence[npt.NDArray[np.generic]], deadline: Deadline
    ) -> list[Encoded | ServiceError]:
        if not payloads:
            return []
        return [_outcome(future, deadline) for future in self._batcher.submit(modality, payloads, deadline)]


def _outcome(future: "Future[Encoded]", deadline: Deadline) -> Encoded | ServiceError:
    try:
        return future.result(timeout=deadline.remaining_s())
    except TimeoutError:
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
