"""A pod on a GPU over HTTP: by clients, distance, device batch and processes; what the card does meanwhile.

And searches beside bulk: how long a text waits while many clients send batches, and what that takes from them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench.delay import delayed
from bench.figures import Percentiles, Row
from bench.gpu_card import watched
from bench.images import ImageServer, image_server
from bench.mixed import Asking, Mixed
from bench.pod import full_size_pod, wait_for_workers
from bench.serving import Bench, Case, image_batches, named_files, single_images, texts
from bench.timing import new_process
from bench.workload import THUMBNAIL, pictures
from tools.testbed.process import PodProcess

LARGE = "1080p"
# As shipped more than that many requests at once are refused: MAX_CONCURRENT_REQUESTS.
_MOST_AS_SHIPPED = 64
_FAR_CLIENTS = 16
# Together with the texts beside them they are fewer than are refused.
_BULK_CLIENTS = 32


@dataclass(frozen=True, slots=True)
class Length:
    """How much is asked over HTTP: `rounds` times `seconds` for each case, and of the steady load so many minutes.

    `clients`, `device_batches`, `workers`, `round_trips_ms` and, beside batches, `text_clients` are gone through.
    """

    seconds: float
    rounds: int
    steady_s: float
    steady_rounds: int
    clients: Sequence[int]
    device_batches: Sequence[int]
    workers: Sequence[int]
    round_trips_ms: Sequence[int]
    text_clients: Sequence[int]


@dataclass(frozen=True, slots=True)
class Plan:
    """One pod with `settings`, and what is asked of it. `label` names it in the rows.

    With a `round_trip_ms` its clients are that far away; without one they are beside it.
    """

    label: str
    settings: Mapping[str, str]
    cases: Sequence[Case]
    round_trip_ms: int | None = None


def plans(length: Length) -> list[Plan]:
    """As shipped, then from afar, then other device batches, then by processes with room for every client.

    The first of each kind is what the others are compared with.
    """
    most = max(length.clients)
    few = min(most, _MOST_AS_SHIPPED)
    full = [image_batches(THUMBNAIL, few), single_images(THUMBNAIL, most), texts(most)]
    shipped = [
        *(single_images(THUMBNAIL, count) for count in length.clients),
        *(image_batches(THUMBNAIL, count) for count in length.clients if count <= few),
        *(texts(count) for count in length.clients),
        single_images(LARGE, most),
        image_batches(LARGE, few),
    ]
    far = [case(min(most, _FAR_CLIENTS)) for case in (_thumbnails, _thumbnail_batches, texts)]
    every = [case(count) for case in (_thumbnails, _thumbnail_batches) for count in length.clients]
    return [
        Plan("as shipped", {}, shipped),
        *(Plan(f"{ms} ms away", {}, far, ms) for ms in length.round_trips_ms),
        *(Plan(f"MAX_DEVICE_BATCH={size}", {"MAX_DEVICE_BATCH": str(size)}, full) for size in length.device_batches),
        *(
            Plan(f"WORKERS={count}, room for {most}", {"WORKERS": str(count), **_room_for(most)}, [*every, texts(most)])
            for count in length.workers
        ),
    ]


def measure(planned: Sequence[Plan], settings: Mapping[str, str], length: Length) -> Iterator[Row]:
    """One row per case, as soon as it is measured; the first pod is then kept under load for its steady minutes."""
    files = named_files({size: pictures(size) for size in (THUMBNAIL, LARGE)})
    with image_server(files) as images:
        for number, plan in enumerate(planned):
            yield from _measure(plan, settings, images, length, steady=number == 0)


def _measure(
    plan: Plan, settings: Mapping[str, str], images: ImageServer, length: Length, *, steady: bool
) -> Iterator[Row]:
    started_s = time.monotonic()
    with ExitStack() as stack:
        pod = stack.enter_context(full_size_pod({**settings, **plan.settings}))
        wait_for_workers(pod, int(plan.settings.get("WORKERS", "1")))
        yield Row("http", f"{plan.label}: start until ready", time.monotonic() - started_s, "s")
        base_url = pod.base_url
        if plan.round_trip_ms is not None:
            base_url = stack.enter_context(delayed(base_url, plan.round_trip_ms / 1000))
        bench = stack.enter_context(Bench.over(pod, images, base_url))
        bench.warm_up(plan.cases, length.seconds)
        for case in plan.cases:
            yield _run(bench, case, length.seconds, length.rounds, plan.label)
        if steady:
            label = f"{plan.label}, for {length.steady_s * length.steady_rounds:.0f} s"
            yield _run(bench, _steady(plan.cases), length.steady_s, length.steady_rounds, label)
            yield from _searches_beside_bulk(pod, images, length, plan.label)


def _searches_beside_bulk(pod: PodProcess, images: ImageServer, length: Length, label: str) -> Iterator[Row]:
    """Batches of thumbnails without pause, beside none to many who search by text."""
    bulk = min(max(length.clients), _BULK_CLIENTS)
    with new_process() as with_images, new_process() as with_texts:
        asking = Asking(pod, images, (with_images, with_texts), bulk)
        for searching in length.text_clients:
            what = f"{label}: {bulk} clients with batches, {searching} with texts"
            row = asking.row(THUMBNAIL, searching, length.seconds * length.rounds)
            yield Row("http", f"{what}: images", row.images_per_s, "images/s")
            yield from _of_texts(what, row) if searching else ()


def _of_texts(what: str, row: Mixed) -> Iterator[Row]:
    waited = Percentiles.of(row.text_ms)
    yield Row("http", f"{what}: texts", row.texts / row.elapsed_s, "texts/s")
    yield Row("http", f"{what}: a text's p50", waited.p50, "ms")
    yield Row("http", f"{what}: a text's p99", waited.p99, "ms")
    yield Row("http", f"{what}: failed requests of both", float(row.failed), "requests")


def _run(bench: Bench, case: Case, seconds: float, rounds: int, label: str) -> Row:
    row = median_row([_run_once(bench, case, seconds) for _ in range(rounds)])
    return replace(row, what=f"{label}: {row.what}")


def _run_once(bench: Bench, case: Case, seconds: float) -> Row:
    with watched() as watch:
        row = bench.run(case, seconds)
    return replace(row, served=replace(row.served, card=watch.use) if row.served else None)


def median_row(rows: Sequence[Row]) -> Row:
    """The row whose value is the median (of an even number the lower one), with the range of all and every failure."""
    ordered = sorted(rows, key=lambda row: row.value)
    middle = ordered[(len(ordered) - 1) // 2]
    failed = sum(row.served.failed for row in rows if row.served)
    served = replace(middle.served, failed=failed) if middle.served else None
    return replace(middle, low=ordered[0].value, high=ordered[-1].value, served=served)


def _steady(cases: Sequence[Case]) -> Case:
    return next(case for case in reversed(cases) if case.batch > 1 and case.size == THUMBNAIL)


def _thumbnails(clients: int) -> Case:
    return single_images(THUMBNAIL, clients)


def _thumbnail_batches(clients: int) -> Case:
    return image_batches(THUMBNAIL, clients)


def _room_for(clients: int) -> Mapping[str, str]:
    """Limits that refuse none of them, however few processes there are: how they are served is to be seen."""
    batch = image_batches(THUMBNAIL, clients).batch
    return {"MAX_CONCURRENT_REQUESTS": str(clients), "MAX_QUEUED_ITEMS": str(clients * batch)}
