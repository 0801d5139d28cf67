"""What one way of embedding many images costs its process: `-m embed_alone WAY URL ITEMS EARLY`.

`bench.client` runs it in an interpreter with nothing but the client, this checkout's or an older one's. Prints JSON.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 2**20


@dataclass(slots=True)
class Seen:
    """Results so far, and the resident size: when `early` of them were there, and at the end."""

    early: int
    items: int = 0
    failed: int = 0
    early_mib: float = 0.0
    end_mib: float = 0.0

    def note(self, result: object) -> None:
        self.items += 1
        # By its vector, which embeddings of all checkouts have.
        self.failed += not hasattr(result, "vector")
        if self.items == self.early:
            self.early_mib = resident_mib()


def resident_mib() -> float:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES / _MIB


def largest_mib() -> float:
    """Of this program: what `getrusage` says begins with the process that started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def urls(url: str, items: int) -> Iterator[str]:
    """Each its own, as pages of different products have; the server ignores queries."""
    return (f"{url}?{number}" for number in range(items))


def iterate(given: Iterable[str], seen: Seen) -> None:
    """`ClipClient.iter_images`."""
    from clip_embedding_client import ClipClient

    with ClipClient() as client:
        for result in client.iter_images(given):
            seen.note(result)
        seen.end_mib = resident_mib()


def iterate_in_a_loop(given: Iterable[str], seen: Seen) -> None:
    """`AsyncClipClient.iter_images`."""
    from clip_embedding_client import AsyncClipClient

    async def run() -> None:
        async with AsyncClipClient() as client:
            async with aclosing(client.iter_images(given)) as results:
                async for result in results:
                    seen.note(result)
            seen.end_mib = resident_mib()

    asyncio.run(run())


def collect(given: Iterable[str], seen: Seen) -> None:
    """`embed_images` with a list. Sizes are those with the results held, which is what it is for."""
    listed = list(given)
    with _any_client() as client:
        results = client.embed_images(listed, on_progress=lambda done, _total: _note_size(seen, done))
        seen.end_mib = resident_mib()
    early_mib = seen.early_mib
    for result in results:
        seen.note(result)
    seen.early_mib = early_mib


def _note_size(seen: Seen, done: int) -> None:
    """An older client tells of whole batches only."""
    if not seen.early_mib and done >= seen.early:
        seen.early_mib = resident_mib()


def _any_client() -> Any:  # noqa: ANN401 - of any commit
    try:
        from clip_embedding_client import ClipClient
    except ModuleNotFoundError:
        from worker import create_clip_client, load_settings  # type: ignore[import-not-found]

        return create_clip_client(load_settings(os.environ))
    return ClipClient()


WAYS = {"iterate": iterate, "iterate_in_a_loop": iterate_in_a_loop, "collect": collect}


def main(way: str, url: str, items: str, early: str) -> None:
    seen = Seen(int(early))
    started_s = time.perf_counter()
    WAYS[way](urls(url, int(items)), seen)
    elapsed_s = time.perf_counter() - started_s
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "elapsed_s": elapsed_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "largest_mib": largest_mib(),
    }
    print(json.dumps(asdict(seen) | told))


if __name__ == "__main__":
    main(*sys.argv[1:])
