"""The client for threads: images and texts in, vectors or typed errors out, whichever backend the settings name."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from clip_embedding_client.batching import Chunk, Chunker, checked_or_error, loaded_or_error
from clip_embedding_client.clock import Clock
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.events import OnEvent, OnProgress
from clip_embedding_client.images import loaded
from clip_embedding_client.operations import Sendable
from clip_embedding_client.policy import Policy
from clip_embedding_client.settings import ClientSettings
from clip_embedding_client.threads import ThreadDriver
from clip_embedding_client.values import (
    Embedding,
    Health,
    ImageItem,
    Outcome,
    TextItem,
    image_item,
    new_request_id,
    several,
    text_item,
)

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from clip_embedding_client.values import ImageSource


class ClipClient:
    """Thread-safe, and keeps its connections: make one per process. Close it, or use it as a context manager."""

    def __init__(
        self, settings: ClientSettings | None = None, *, on_event: OnEvent | None = None, clock: Clock | None = None
    ) -> None:
        """Nothing is connected yet. Without `settings` they are read from the environment.

        Raises `ConfigurationError` naming the variable that is missing or wrong.
        """
        self._start(Policy.of(settings or ClientSettings.from_environ(), clock, on_event))

    @classmethod
    def over(cls, policy: Policy) -> Self:
        """Return a client of a policy that is already put together."""
        client = cls.__new__(cls)
        client._start(policy)
        return client

    def _start(self, policy: Policy) -> None:
        self._policy = policy
        self._driver = ThreadDriver(connect_timeout_s=policy.settings.clip_connect_timeout_s, clock=policy.clock)

    def embed_image(
        self,
        image: ImageSource,
        *,
        request_id: str | None = None,
        normalize: bool = True,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> Embedding:
        """Return the float32 (dim,) vector of an image: a URL, a path, bytes, a binary file or a PIL image.

        `timeout` is of the whole call, in seconds. Raises a `ClipClientError`.
        """
        item = loaded(ImageItem(image, request_id or new_request_id(), normalize))
        return self._driver.run(self._policy.single(item, timeout, max_retries))

    def embed_text(
        self,
        text: str,
        *,
        request_id: str | None = None,
        normalize: bool = True,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> Embedding:
        """Return the float32 (dim,) vector of `text`; a longer one is cut and says so. Raises a `ClipClientError`."""
        item = TextItem(text, request_id or new_request_id(), normalize)
        item.check()
        return self._driver.run(self._policy.single(item, timeout, max_retries))

    def embed_images(
        self,
        images: Iterable[ImageSource | ImageItem],
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> list[Embedding | ClipClientError]:
        """Return one result per image, in order: its embedding, or the error of that image in its place.

        They travel in batches, several at once. An item's retryable error has been retried when it is returned, and one
        that the backend is at fault for has been sent to the fallback, as a single image's is. `timeout` is of each
        batch. Raises only `BackendOff` and `ConfigurationError`.
        """
        images = list(several(images))
        results = self.iter_images(images, timeout=timeout, max_retries=max_retries)
        return _collected(results, len(images), on_progress)

    def embed_texts(
        self,
        texts: Iterable[str | TextItem],
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> list[Embedding | ClipClientError]:
        """Return one result per text, in order, as `embed_images` does."""
        texts = list(several(texts))
        results = self.iter_texts(texts, timeout=timeout, max_retries=max_retries)
        return _collected(results, len(texts), on_progress)

    def iter_images(
        self,
        images: Iterable[ImageSource | ImageItem],
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> Generator[Embedding | ClipClientError, None, None]:
        """Yield one result per image, in order, while `images` is read: a generator of millions will do.

        A bounded number of batches is held, those on their way and those that wait for one before them. So the n-th
        result is of the n-th image: whoever stops after n goes on with what follows. Raises what `images` raises,
        after the results of what it gave before, and otherwise as `embed_images`.
        """
        items = (loaded_or_error(image_item(image)) for image in several(images))
        return self._results(items, self._policy.image_chunks(), timeout, max_retries)

    def iter_texts(
        self, texts: Iterable[str | TextItem], *, timeout: float | None = None, max_retries: int | None = None
    ) -> Generator[Embedding | ClipClientError, None, None]:
        """Yield one result per text, in order, as `iter_images` does."""
        items = (checked_or_error(text_item(text)) for text in several(texts))
        return self._results(items, self._policy.text_chunks(), timeout, max_retries)

    def health(self, *, timeout: float | None = None) -> Health:
        """Ask the chosen backend, once. One that loads or drains answers too. Raises a `ClipClientError`."""
        return self._driver.run(self._policy.health(timeout))

    @property
    def counters(self) -> Mapping[str, int]:
        """`switches` between the backends, `retries` of items, `refused_mixes`: totals since the client was made."""
        return self._policy.events.counters()

    def close(self) -> None:
        """Close connections and, for the backend `local`, release the model."""
        self._driver.close()
        self._policy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _results(
        self,
        items: Iterable[Sendable | ClipClientError],
        chunker: Chunker[Sendable],
        timeout_s: float | None,
        max_retries: int | None,
    ) -> Generator[Outcome, None, None]:
        pool = ThreadPoolExecutor(self._policy.concurrency, thread_name_prefix="clip-batch")
        sent: deque[Future[list[Outcome]]] = deque()
        left = threading.Event()

        def send(chunk: Chunk[Sendable]) -> Future[list[Outcome]]:
            # Not on the pool's thread: what is current in a trace is so on the caller's.
            return pool.submit(self._driver.run, self._policy.chunk(chunk, timeout_s, max_retries), left)

        try:
            chunks = _chunks(items, chunker)
            while True:
                chunk, failed = _next(chunks, chunker)
                if chunk is not None:
                    sent.append(send(chunk))
                over = chunk is None or failed is not None
                while sent and (over or len(sent) >= self._policy.window or sent[0].done()):
                    yield from sent.popleft().result()
                if failed is not None:
                    raise failed
                if over:
                    return
        finally:
            # On an error of the caller (or Ctrl-C) what has not begun never does, and what waits ends.
            left.set()
            pool.shutdown(cancel_futures=True)


def _chunks(items: Iterable[Sendable | ClipClientError], chunker: Chunker[Sendable]) -> Iterator[Chunk[Sendable]]:
    for item in items:
        yield from chunker.add(item)
    yield from chunker.rest()


def _next(
    chunks: Iterator[Chunk[Sendable]], chunker: Chunker[Sendable]
) -> tuple[Chunk[Sendable] | None, Exception | None]:
    """The next chunk, None at the end; what the caller's own iterator raises comes with the items that it gave."""
    try:
        return next(chunks, None), None
    except Exception as error:
        return next(chunker.rest(), None), error


def _collected(results: Generator[Outcome, None, None], total: int, on_progress: OnProgress | None) -> list[Outcome]:
    collected: list[Outcome] = []
    # What `on_progress` raises ends everything, and at once.
    with closing(results):
        for result in results:
            collected.append(result)
            if on_progress is not None:
                on_progress(len(collected), total)
    return collected
