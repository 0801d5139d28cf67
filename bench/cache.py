"""The same thumbnail for 32 clients, with the cache and without, and what 10^6 texts leave in memory.

And three clients of which one is over its rate: what the other two get, beside what they get without it.
`make bench-cache`: a full-size model, a minute. Writes bench/results/cache.json.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import psutil

from bench.figures import Percentiles
from bench.images import image_server
from bench.lines import Findings, Line, at_least, at_most, find, lines_table, ratio_of, unless_failed
from bench.load import Load, drive
from bench.machine import about, commit
from bench.paced import ask_at_pace
from bench.pod import Passes, end_with_pods, full_size_pod
from bench.serving import named_files
from bench.table import checklist
from bench.trees import THIS
from bench.work import Request, SingleImages, Texts
from bench.workload import RESULTS, THUMBNAIL, pictures
from core.batching.items import Encoded, Group, Item, Modality
from core.cache import Cache
from core.deadline import Deadline
from tools.testbed.process import SECRET

_CLIENTS = 32
_REQUESTS = 1000
_KEYS = 1_000_000
_DIM = 512
_NO_END_S = 3600.0
_CACHE_MIB = 64

# Two that ask 20 times a second each, and one that asks as fast as it can: all may have 40.
_SECONDS = 8.0
_POLITE_EVERY_S = 0.05
_GREEDY_CONNECTIONS = 16
_RATE = "40/second"
_SECRETS = {name: name * 4 for name in ("polite-1", "polite-2", "greedy-1")}

WITH, WITHOUT = "one thumbnail, 1,000 times, 32 clients, cache", "the same without the cache"
HELD = "10^6 texts in a cache of 64 MiB"
ALONE, BESIDE = "two clients within their rate, alone", "the same beside one that is over its own"
RATE, P50, PASSES, FAILED, MIB, GOODPUT = "images/s", "p50 ms", "passed items", "failed", "MiB held", "texts/s"


@dataclass(frozen=True, slots=True)
class Same:
    """The same image in every request."""

    work: SingleImages

    def request(self, _number: int) -> Request:
        return self.work.request(0)


def main() -> None:
    """Measure, print and write."""
    end_with_pods()
    before = about({"commit": commit(THIS.folder)})
    lines = [_thumbnails(WITH, {}), _thumbnails(WITHOUT, {"CACHE_BYTES": "0"}), _held(), *_rates()]
    checks = (
        unless_failed(
            at_most(f"{WITH}: one image embedded", find(lines, WITH, PASSES), 1.0, ""), find(lines, WITH, FAILED)
        ),
        at_most(f"{HELD}: <= {_CACHE_MIB} MiB", find(lines, HELD, MIB), _CACHE_MIB, " MiB"),
        at_least(
            "two clients beside one over its rate keep 0.9 of theirs",
            ratio_of(find(lines, BESIDE, GOODPUT), find(lines, ALONE, GOODPUT)),
            0.9,
        ),
    )
    print(f"{before['machine']['processor']}\n")
    print(lines_table(lines), "\n")
    print(checklist(checks))
    Findings(before, tuple(lines), checks).write(RESULTS / "cache.json")


def _thumbnails(what: str, settings: Mapping[str, str]) -> Line:
    files = named_files({THUMBNAIL: pictures(THUMBNAIL)[:1]})
    with image_server(files) as images, full_size_pod({"CACHE_BYTES": str(_CACHE_MIB << 20), **settings}) as pod:
        work = Same(SingleImages(tuple(images.urls.values()), SECRET))
        before = Passes.so_far(pod.base_url, "image")
        outcome = drive(Load(pod.base_url, work, _CLIENTS, _NO_END_S, most_requests=_REQUESTS))
        embedded = before.until(Passes.so_far(pod.base_url, "image")).items
    figures = {
        RATE: outcome.vectors / outcome.elapsed_s,
        P50: Percentiles.of(outcome.latencies_ms).p50,
        PASSES: embedded,
        FAILED: float(outcome.failed),
    }
    return Line(what, THIS.label, figures)


def _held() -> Line:
    """Resident memory that the cache adds to this process."""
    cache, process = Cache(_CACHE_MIB << 20, model="bench"), psutil.Process()
    group = Group(Deadline.after(_NO_END_S))
    before = process.memory_info().rss
    for number in range(_KEYS):
        item = Item(Modality.TEXT, group, None)
        row = Encoded(np.full(_DIM, number, dtype=np.float32), 1.0, 0.0, 0.0)
        cache.claim([(item, cache.key(Modality.TEXT, number.to_bytes(8)))], partial(_settle, row))
    held = (process.memory_info().rss - before) / 1024**2
    cache.close()
    return Line(HELD, THIS.label, {MIB: held})


def _settle(row: Encoded, items: Sequence[Item]) -> None:
    for item in items:
        item.settle(row)


def _rates() -> Iterator[Line]:
    clients = ",".join(f"{name}:{secret}" for name, secret in _SECRETS.items())
    with full_size_pod({"EMBEDDING_HMAC_CLIENTS": clients, "RATE_LIMIT_ITEMS": _RATE}) as pod:
        _polite(pod.base_url, _SECRETS["polite-1"], 0, 1.0)
        for what, greedy in ((ALONE, 0), (BESIDE, _GREEDY_CONNECTIONS)):
            yield _rate(what, pod.base_url, greedy)


def _rate(what: str, base_url: str, greedy: int) -> Line:
    with ThreadPoolExecutor(3) as threads:
        polite = [
            threads.submit(_polite, base_url, _SECRETS[name], first, _SECONDS)
            for name, first in (("polite-1", 10_000 + greedy), ("polite-2", 20_000 + greedy))
        ]
        if greedy:
            threads.submit(drive, Load(base_url, Texts(_SECRETS["greedy-1"]), greedy, _SECONDS, 30_000))
        taken_ms = [ms for one in polite for ms in one.result()]
    return Line(what, THIS.label, {GOODPUT: len(taken_ms) / _SECONDS, P50: Percentiles.of(taken_ms).p50})


def _polite(base_url: str, secret: str, first: int, seconds: float) -> list[float]:
    """Milliseconds of each answer that held a vector."""
    return ask_at_pace(base_url, Texts(secret), every_s=_POLITE_EVERY_S, seconds=seconds, first_number=first)


if __name__ == "__main__":
    main()
