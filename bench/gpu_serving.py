"""A pod on a GPU over HTTP on loopback: by clients, by device batch, by processes; what the card does meanwhile."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.figures import Row
from bench.gpu_card import watched
from bench.images import image_server
from bench.pod import full_size_pod, wait_for_workers
from bench.serving import Bench, Case, image_batches, named_files, single_images, texts
from bench.workload import THUMBNAIL, pictures

LARGE = "1080p"
# More than that many requests of 16 would be refused: MAX_QUEUED_ITEMS.
_MOST_BATCH_CLIENTS = 64
# As many places as that many single processes have: what is compared is their speed, not their refusals.
_PLACES_PER_WORKER = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """One pod with `settings`, and what is asked of it. `label` names it in the rows."""

    label: str
    settings: Mapping[str, str]
    cases: Sequence[Case]


def plans(clients: Sequence[int], device_batches: Sequence[int], workers: Sequence[int]) -> list[Plan]:
    """As shipped with every number of clients, then other device batches and more processes under the full load."""
    most = max(clients)
    full = [image_batches(THUMBNAIL, min(most, _MOST_BATCH_CLIENTS)), single_images(THUMBNAIL, most), texts(most)]
    shipped = [
        *(single_images(THUMBNAIL, count) for count in clients),
        *(image_batches(THUMBNAIL, count) for count in clients if count <= _MOST_BATCH_CLIENTS),
        *(texts(count) for count in clients),
        single_images(LARGE, most),
        image_batches(LARGE, min(most, _MOST_BATCH_CLIENTS)),
    ]
    return [
        Plan("as shipped", {}, shipped),
        *(Plan(f"MAX_DEVICE_BATCH={size}", {"MAX_DEVICE_BATCH": str(size)}, full) for size in device_batches),
        *(Plan(f"WORKERS={count}", _processes(count), full) for count in workers),
    ]


def _processes(workers: int) -> dict[str, str]:
    return {"WORKERS": str(workers), "MAX_CONCURRENT_REQUESTS": str(workers * _PLACES_PER_WORKER)}


def measure(
    planned: Sequence[Plan], settings: Mapping[str, str], *, seconds: float, steady_s: float = 0.0
) -> Iterator[Row]:
    """One row per case, as soon as it is measured; the first pod is then kept under load for `steady_s`."""
    files = named_files({size: pictures(size) for size in (THUMBNAIL, LARGE)})
    with image_server(files) as images:
        for number, plan in enumerate(planned):
            started_s = time.monotonic()
            with full_size_pod({**settings, **plan.settings}) as pod:
                wait_for_workers(pod, int(plan.settings.get("WORKERS", "1")))
                yield Row("http", f"{plan.label}: start until ready", time.monotonic() - started_s, "s")
                with Bench.over(pod, images) as bench:
                    bench.warm_up(plan.cases, seconds)
                    for case in plan.cases:
                        yield _run(bench, case, seconds, plan.label)
                    if number == 0 and steady_s:
                        steady = next(
                            case for case in reversed(plan.cases) if case.batch > 1 and case.size == THUMBNAIL
                        )
                        yield _run(bench, steady, steady_s, f"{plan.label}, for {steady_s:.0f} s")


def _run(bench: Bench, case: Case, seconds: float, label: str) -> Row:
    with watched() as watch:
        row = bench.run(case, seconds)
    served = replace(row.served, card=watch.use) if row.served else None
    return replace(row, what=f"{label}: {row.what}", served=served)
