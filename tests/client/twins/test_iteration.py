"""How a source is read, and in which order results come: lazily, boundedly, and in the order of the source."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from clip_embedding_client import AsyncClipClient, BackendName, BackendOff, ClientSettings, Embedding
from clip_embedding_client.policy import Policy

from tests.client.twins.faulty import Peer, faulty_server, healthy, vector_of
from tests.client.twins.twin import Opened
from tools.testbed.process import SECRET

BATCH = 2
PATIENCE_S = 60.0
# For a reader that goes too far to show it. On a slow machine a fault may be missed, and nothing fails wrongly.
_A_MOMENT_S = 0.3


class SourceError(Exception):
    """Of the caller's own."""


def settings(base_url: str) -> ClientSettings:
    return ClientSettings(
        clip_inference_backend=BackendName.POD,
        clip_pod_base_url=base_url,
        embedding_hmac_secret=SECRET,
        clip_batch_size=BATCH,
        clip_text_batch_size=BATCH,
    )


def url(number: int) -> str:
    return f"http://a/{number:03}"


def failing(count: int) -> Iterator[str]:
    """So many URLs, then an error."""
    yield from map(url, range(count))
    raise SourceError


@pytest.mark.parametrize("call", ["iter_images", "iter_texts"])
@pytest.mark.parametrize("count", [0, 1, BATCH, 5 * BATCH + 1, 60 * BATCH])
def test_source_that_fails(opened: Opened, call: str, count: int) -> None:
    """The results of all that it gave come first, whole batches or not, then its error as it is."""
    results: list[list[float]] = []
    with (
        faulty_server(healthy) as script,
        opened(settings(script.base_url)) as client,
        pytest.raises(SourceError),
    ):
        # What came before the error stays in the list.
        results.extend(result.vector.tolist() for result in getattr(client, call)(failing(count)))

    assert [vector_of(url(number)) for number in range(count)] == results


@pytest.mark.parametrize("count", [0, 5 * BATCH + 1])
def test_asynchronous_source(count: int) -> None:
    """A source may wait for its items; what it gives, and its error, are treated as any other's."""

    async def source() -> AsyncIterator[str]:
        for number in range(count):
            await asyncio.sleep(0)
            yield url(number)
        raise SourceError

    results: list[list[float]] = []

    async def read(base_url: str) -> None:
        async with AsyncClipClient(settings(base_url)) as client:
            async for result in client.iter_images(source()):
                assert isinstance(result, Embedding)
                results.append(result.vector.tolist())

    with faulty_server(healthy) as script, pytest.raises(SourceError):
        asyncio.run(read(script.base_url))

    assert [vector_of(url(number)) for number in range(count)] == results


def test_source_is_read_no_further_than_the_window(opened: Opened) -> None:
    """While the first batch is late, the others go on so far, and wait for it; a consumer that stops reads no more."""
    given, late = list[int](), threading.Event()
    with faulty_server(healthy) as script:
        window = Policy.of(settings(script.base_url)).window

        def images() -> Iterator[str]:
            for number in range(10 * window * BATCH):
                given.append(number)
                if len(given) == window * BATCH:
                    late.set()
                yield url(number)

        def in_turn(peer: Peer) -> None:
            if any(item["image_url"] == url(0) for item in peer.seen.body["items"]):
                assert late.wait(PATIENCE_S)
                peer.over.wait(_A_MOMENT_S)
            healthy(peer)

        script.behaviours[:] = [in_turn]
        with opened(settings(script.base_url)) as client:
            results = client.iter_images(images())
            first = next(results)
            read = len(given)
            results.close()

    assert vector_of(url(0)) == first.vector.tolist()
    assert (window * BATCH, window * BATCH) == (read, len(given))


def test_order_is_that_of_the_source(opened: Opened) -> None:
    """Batches that are answered the other way round come in the order of the source all the same."""
    others, count = threading.Semaphore(0), 10 * BATCH

    def last_first(peer: Peer) -> None:
        if any(item["image_url"] == url(0) for item in peer.seen.body["items"]):
            for _ in range(count // BATCH - 1):
                assert others.acquire(timeout=PATIENCE_S)
            healthy(peer)
        else:
            healthy(peer)
            others.release()

    with faulty_server(last_first) as script, opened(settings(script.base_url)) as client:
        results = client.embed_images(map(url, range(count)))

    assert [vector_of(url(number)) for number in range(count)] == [result.vector.tolist() for result in results]


def test_backend_that_is_off(opened: Opened) -> None:
    """What no item will ever do better on is raised, not given as each item's error."""
    with opened(ClientSettings(clip_inference_backend=BackendName.OFF)) as client:
        with pytest.raises(BackendOff):
            client.embed_images(map(url, range(100)))
        with pytest.raises(BackendOff):
            client.embed_text("x")
