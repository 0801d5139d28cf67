"""Does memory stay level? `make bench-memory`: 20,000 requests of mixed sizes, full-size model.

Prints the worker's resident size over time, and by how much its second half grows.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median

import psutil

from bench.compare import MEMORY
from bench.figures import Check, Report, Row
from bench.images import ImageServer, image_server
from bench.load import Load, Outcome, drive
from bench.machine import about
from bench.mixture import Mixture, files
from bench.pod import full_size_pod, worker_of
from bench.table import checklist, table
from bench.timing import new_process
from bench.workload import RESULTS
from tools.testbed.process import SECRET, PodProcess

REQUESTS = 20_000
MOST_GROWTH = 0.02
_CLIENTS = 8
_NO_END_S = 86_400.0
_SAMPLE_S = 0.25
_LINES = 20
_KEPT_SAMPLES = 50


@dataclass(frozen=True, slots=True)
class Sample:
    """The worker's resident size at a time after the first request."""

    at_s: float
    resident_mib: float


def main() -> None:
    """Measure, print and write bench/results/memory.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    requests = parser.parse_args().requests
    with image_server(files()) as images, full_size_pod() as pod:
        samples, outcome = measure(pod, images, requests)
    settings = {"requests": requests, "clients": _CLIENTS, "model": "random-vit-b-32"}
    curve = samples[:: max(1, len(samples) // _KEPT_SAMPLES)]
    more = {"statuses": outcome.statuses, "resident_mib": [(one.at_s, one.resident_mib) for one in curve]}
    report = Report({**about(settings), **more}, rows_of(samples, outcome), (growth_check(samples),))
    show(report, samples)
    report.write(RESULTS / "memory.json")


def measure(pod: PodProcess, images: ImageServer, requests: int) -> tuple[list[Sample], Outcome]:
    """Send `requests` and take samples meanwhile."""
    urls = images.urls.items()
    work = Mixture(
        good=tuple(url for name, url in urls if name.startswith("good")),
        broken=tuple(url for name, url in urls if name.startswith("broken")),
        secret=SECRET,
    )
    with new_process() as client:
        running = client.submit(drive, Load(pod.base_url, work, _CLIENTS, _NO_END_S, most_requests=requests))
        samples = _sampled(worker_of(pod), running)
        return samples, running.result()


def _sampled(worker: psutil.Process, running: "Future[Outcome]") -> list[Sample]:
    samples, started_s = [], time.monotonic()
    while not running.done():
        resident_mib = worker.memory_info().rss / 2**20
        samples.append(Sample(round(time.monotonic() - started_s, 2), round(resident_mib, 2)))
        time.sleep(_SAMPLE_S)
    return samples


def growth(samples: Sequence[Sample]) -> float:
    """By which share the second half grows: the median of its last fifth over the median of its first fifth.

    Single samples are no measure: a batch of large images comes and goes.
    """
    half = [sample.resident_mib for sample in samples[len(samples) // 2 :]]
    fifth = max(1, len(half) // 5)
    return median(half[-fifth:]) / median(half[:fifth]) - 1


def growth_check(samples: Sequence[Sample]) -> Check:
    measured = growth(samples)
    return Check(f"second half grows by less than {MOST_GROWTH:.0%}", f"{measured:+.2%}", measured < MOST_GROWTH)


def rows_of(samples: Sequence[Sample], outcome: Outcome) -> tuple[Row, ...]:
    """The figures of the run."""
    sizes = [sample.resident_mib for sample in samples]
    return (
        Row(MEMORY, "requests", len(outcome.latencies_ms), "requests"),
        Row(MEMORY, "request rate", len(outcome.latencies_ms) / outcome.elapsed_s, "per s"),
        Row(MEMORY, "vectors", outcome.vectors, "vectors"),
        Row(MEMORY, "resident size: at the start", sizes[0], "MiB"),
        Row(MEMORY, "resident size: at half time", sizes[len(sizes) // 2], "MiB"),
        Row(MEMORY, "resident size: at the end", sizes[-1], "MiB"),
        Row(MEMORY, "resident size: largest", max(sizes), "MiB"),
    )


def show(report: Report, samples: Sequence[Sample]) -> None:
    """Print the curve as a few lines of text, then the figures."""
    largest = max(sample.resident_mib for sample in samples)
    for sample in samples[:: max(1, len(samples) // _LINES)]:
        bar = "#" * round(50 * sample.resident_mib / largest)
        print(f"{sample.at_s:8.1f} s {sample.resident_mib:9.1f} MiB {bar}")
    print(f"answers by status: {report.about['statuses']}\n")
    print(table(report.rows), "\n")
    print(checklist(report.checks))


if __name__ == "__main__":
    main()
