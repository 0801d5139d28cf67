"""Both clients behind one face, so that one suite holds for both: the asynchronous one has its loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

from clip_embedding_client import AsyncClipClient, ClientSettings, ClipClient, ClipClientError, Embedding, Health
from clip_embedding_client.clock import Clock
from clip_embedding_client.events import OnEvent

Result = TypeVar("Result")
Results = Iterator[Embedding | ClipClientError]


class Twin(Protocol):
    """What both clients do, asked from a thread. `options` are the clients' own."""

    def embed_image(self, image: Any, **options: Any) -> Embedding: ...  # noqa: ANN401

    def embed_text(self, text: str, **options: Any) -> Embedding: ...  # noqa: ANN401

    def embed_images(self, images: Iterable[Any], **options: Any) -> list[Embedding | ClipClientError]: ...  # noqa: ANN401

    def embed_texts(self, texts: Iterable[Any], **options: Any) -> list[Embedding | ClipClientError]: ...  # noqa: ANN401

    def iter_images(self, images: Iterable[Any], **options: Any) -> Results: ...  # noqa: ANN401

    def iter_texts(self, texts: Iterable[Any], **options: Any) -> Results: ...  # noqa: ANN401

    def health(self, *, timeout: float | None = None) -> Health: ...

    @property
    def counters(self) -> Mapping[str, int]: ...


class LoopedTwin:
    """An `AsyncClipClient` as if it were a `ClipClient`."""

    def __init__(self, settings: ClientSettings, on_event: OnEvent | None, clock: Clock | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client = AsyncClipClient(settings, on_event=on_event, clock=clock)

    def embed_image(self, image: Any, **options: Any) -> Embedding:  # noqa: ANN401
        return self._run(self._client.embed_image(image, **options))

    def embed_text(self, text: str, **options: Any) -> Embedding:  # noqa: ANN401
        return self._run(self._client.embed_text(text, **options))

    def embed_images(self, images: Iterable[Any], **options: Any) -> list[Embedding | ClipClientError]:  # noqa: ANN401
        return self._run(self._client.embed_images(images, **options))

    def embed_texts(self, texts: Iterable[Any], **options: Any) -> list[Embedding | ClipClientError]:  # noqa: ANN401
        return self._run(self._client.embed_texts(texts, **options))

    def iter_images(self, images: Iterable[Any], **options: Any) -> Results:  # noqa: ANN401
        return self._each(self._client.iter_images(images, **options))

    def iter_texts(self, texts: Iterable[Any], **options: Any) -> Results:  # noqa: ANN401
        return self._each(self._client.iter_texts(texts, **options))

    def health(self, *, timeout: float | None = None) -> Health:
        return self._run(self._client.health(timeout=timeout))

    @property
    def counters(self) -> Mapping[str, int]:
        return self._client.counters

    def close(self) -> None:
        """End the loop too. A task that is left in it is a leak, and an error."""
        self._run(self._client.close())
        left = self._run(_other_tasks())
        self._run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not left

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _each(self, results: Any) -> Results:  # noqa: ANN401 - an asynchronous generator
        async def following() -> Embedding | ClipClientError | None:
            return await anext(results, None)

        try:
            while (result := self._run(following())) is not None:
                yield result
        finally:
            self._run(results.aclose())


async def _other_tasks() -> list[str]:
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@contextmanager
def _threaded(settings: ClientSettings, on_event: OnEvent | None = None, clock: Clock | None = None) -> Iterator[Twin]:
    with ClipClient(settings, on_event=on_event, clock=clock) as client:
        # Its own signatures say more than the face's.
        yield cast(Twin, client)


@contextmanager
def _looped(settings: ClientSettings, on_event: OnEvent | None = None, clock: Clock | None = None) -> Iterator[Twin]:
    twin = LoopedTwin(settings, on_event, clock)
    try:
        yield twin
    finally:
        twin.close()


Opened = Callable[..., Any]
"""(settings, on_event, clock) -> the twin until the block ends."""

TWINS: Mapping[str, Opened] = {"threads": _threaded, "asyncio": _looped}
