"""The client for asyncio: what `ClipClient` does, with the same policy."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

import anyio

from clip_embedding_client.async_driver import AsyncDriver
from clip_embedding_client.batching import Chunk, Chunker, checked_or_error, loaded_or_error
from clip_embedding_client.clock import Clock
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.events import OnEvent, OnProgress
from clip_embedding_client.images import LoadedImage, loaded, takes_long
from clip_embedding_client.operations import Sendable
from clip_embedding_client.policy import Policy
from clip_embedding_client.settings import ClientSettings
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

Given = TypeVar("Given")
Loaded = TypeVar("Loaded")


class AsyncClipClient:
    """For one event loop; keeps its connections. Close it, or use it as an asynchronous context manager.

    A cancelled call cancels its request, or its job, and its model's work.
    """

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
        self._driver = AsyncDriver(connect_timeout_s=policy.settings.clip_connect_timeout_s, clock=policy.clock)

    async def embed_image(
        self,
        image: ImageSource,
        *,
        request_id: str | None = None,
        normalize: bool = True,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> Embedding:
        """See `ClipClient.embed_image`. A file is read, and bytes are prepared, in a thread."""
        item = await _in_thread_if(
            takes_long(image), loaded, ImageItem(image, request_id or new_request_id(), normalize)
        )
        return await self._driver.run(self._policy.single(item, timeout, max_retries))

    async def embed_text(
        self,
        text: str,
        *,
        request_id: str | None = None,
        normalize: bool = True,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> Embedding:
        """See `ClipClient.embed_text`."""
        item = TextItem(text, request_id or new_request_id(), normalize)
        item.check()
        return await self._driver.run(self._policy.single(item, timeout, max_retries))

    async def embed_images(
        self,
        images: Iterable[ImageSource | ImageItem],
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> list[Embedding | ClipClientError]:
        """See `ClipClient.embed_images`."""
        images = list(several(images))
        results = self.iter_images(images, timeout=timeout, max_retries=max_retries)
        return await _collected(results, len(images), on_progress)

    async def embed_texts(
        self,
        texts: Iterable[str | TextItem],
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> list[Embedding | ClipClientError]:
        """See `ClipClient.embed_texts`."""
        texts = list(several(texts))
        results = self.iter_texts(texts, timeout=timeout, max_retries=max_retries)
        return await _collected(results, len(texts), on_progress)

    def iter_images(
        self,
        images: Iterable[ImageSource | ImageItem] | AsyncIterable[ImageSource | ImageItem],
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> AsyncGenerator[Embedding | ClipClientError, None]:
        """See `ClipClient.iter_images`; `images` may be asynchronous too.

        Whoever leaves the loop early closes it with `contextlib.aclosing`: what is on its way is cancelled then.
        """

        async def load(image: ImageSource | ImageItem) -> LoadedImage | ClipClientError:
            item = image_item(image)
            return await _in_thread_if(takes_long(item.image), loaded_or_error, item)

        items = _mapped(load, several(images))
        return self._results(items, self._policy.image_chunks(), timeout, max_retries)

    def iter_texts(
        self,
        texts: Iterable[str | TextItem] | AsyncIterable[str | TextItem],
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> AsyncGenerator[Embedding | ClipClientError, None]:
        """See `ClipClient.iter_texts` and `iter_images`."""

        async def check(text: str | TextItem) -> TextItem | ClipClientError:
            return checked_or_error(text_item(text))

        return self._results(_mapped(check, several(texts)), self._policy.text_chunks(), timeout, max_retries)

    async def health(self, *, timeout: float | None = None) -> Health:
        """See `ClipClient.health`."""
        return await self._driver.run(self._policy.health(timeout))

    @property
    def counters(self) -> Mapping[str, int]:
        """See `ClipClient.counters`."""
        return self._policy.events.counters()

    async def close(self) -> None:
        """Close connections and, for the backend `local`, release the model."""
        await self._driver.close()
        await asyncio.to_thread(self._policy.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _results(
        self,
        items: AsyncGenerator[Sendable | ClipClientError, None],
        chunker: Chunker[Sendable],
        timeout_s: float | None,
        max_retries: int | None,
    ) -> AsyncGenerator[Outcome, None]:
        turns = asyncio.Semaphore(self._policy.concurrency)
        sent: deque[asyncio.Task[list[Outcome]]] = deque()

        async def run(chunk: Chunk[Sendable]) -> list[Outcome]:
            async with turns:
                return await self._driver.run(self._policy.chunk(chunk, timeout_s, max_retries))

        chunks = _chunks(items, chunker)
        try:
            while True:
                chunk, failed = await _next(chunks, chunker)
                if chunk is not None:
                    sent.append(asyncio.create_task(run(chunk)))
                    # Else a source that never waits would let none begin.
                    await asyncio.sleep(0)
                over = chunk is None or failed is not None
                while sent and (over or len(sent) >= self._policy.window or sent[0].done()):
                    # A cancellation ends this wait and not what is waited for: that is told once, below.
                    await asyncio.wait([sent[0]])
                    for outcome in sent[0].result():
                        yield outcome
                    sent.popleft()
                if failed is not None:
                    raise failed
                if over:
                    return
        finally:
            # A cancelled scope of anyio cancels again and again what is awaited in it, also what undoes something.
            with anyio.CancelScope(shield=True):
                await _cancel(sent)
            await chunks.aclose()


async def _mapped(
    change: Callable[[Given], Awaitable[Loaded]], given: Iterable[Given] | AsyncIterable[Given]
) -> AsyncGenerator[Loaded, None]:
    if isinstance(given, AsyncIterable):
        async for each in given:
            yield await change(each)
    else:
        for each in given:
            yield await change(each)


async def _cancel(tasks: Collection[asyncio.Task[list[Outcome]]]) -> None:
    """Return when all of them have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _chunks(
    items: AsyncGenerator[Sendable | ClipClientError, None], chunker: Chunker[Sendable]
) -> AsyncGenerator[Chunk[Sendable], None]:
    # Closed here: what is left to the collector of garbage is closed by a task that nobody waits for.
    async with aclosing(items):
        async for item in items:
            for chunk in chunker.add(item):
                yield chunk
    for chunk in chunker.rest():
        yield chunk


async def _next(
    chunks: AsyncIterator[Chunk[Sendable]], chunker: Chunker[Sendable]
) -> tuple[Chunk[Sendable] | None, Exception | None]:
    """The next chunk, None at the end; what the caller's own iterator raises comes with the items that it gave."""
    try:
        return await anext(chunks, None), None
    except Exception as error:
        return next(chunker.rest(), None), error


async def _in_thread_if(long: bool, load: Callable[[ImageItem], Loaded], item: ImageItem) -> Loaded:
    return await asyncio.to_thread(load, item) if long else load(item)


async def _collected(
    results: AsyncGenerator[Outcome, None], total: int, on_progress: OnProgress | None
) -> list[Outcome]:
    collected: list[Outcome] = []
    # What `on_progress` raises ends everything, and at once.
    async with aclosing(results):
        async for result in results:
            collected.append(result)
            if on_progress is not None:
                on_progress(len(collected), total)
    return collected
