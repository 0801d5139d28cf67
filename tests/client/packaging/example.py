"""What a user of the client writes: both clients, items, events and errors. Run on every Python, checked for types."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator

import numpy as np
from clip_embedding_client import (
    AsyncClipClient,
    ClientSettings,
    ClipClient,
    ClipClientError,
    Embedding,
    Event,
    ImageItem,
    RetryableError,
    Switched,
    TextItem,
)

# They differ by the query, as the thumbnails of many scenes would.
_COPIES = 40


def main(image_url: str) -> None:
    settings = ClientSettings.from_environ(os.environ)
    alone = embed(settings, image_url)
    together = asyncio.run(embed_async(settings, image_url))
    assert np.allclose(alone, together, atol=1e-5), "both clients give the same vectors"
    print(*alone.shape)


def images(image_url: str) -> Iterator[str | ImageItem]:
    """Read as they are sent; the last is none."""
    yield from (f"{image_url}?{number}" for number in range(_COPIES))
    yield ImageItem(image_url, request_id="by-name", normalize=False)
    yield image_url + ".missing"


def embed(settings: ClientSettings, image_url: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """One row for each that has a vector, the text's first."""
    with ClipClient(settings, on_event=say) as client:
        rows = [client.embed_text("a red circle").vector]
        [answer] = client.embed_texts([TextItem("a red circle", normalize=True)])
        assert isinstance(answer, Embedding)
        for result in client.iter_images(images(image_url)):
            if isinstance(result, ClipClientError):
                assert not isinstance(result, RetryableError), result
            else:
                rows.append(result.vector)
        assert client.health().ready
        assert client.counters["retries"] == 0
    return stacked(rows)


async def embed_async(settings: ClientSettings, image_url: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The same with asyncio."""
    async with AsyncClipClient(settings, on_event=say) as client:
        rows = [(await client.embed_text("a red circle")).vector]
        results = client.iter_images(images(image_url))
        rows += [result.vector async for result in results if isinstance(result, Embedding)]
        assert (await client.health()).fingerprint is not None
    return stacked(rows)


def stacked(
    rows: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.stack(rows).reshape(len(rows), -1)


def say(event: Event) -> None:
    if isinstance(event, Switched):
        print(f"from {event.source} to {event.destination}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
