"""End to end over HTTP on loopback: a real pod, lean clients, and /health asked all the while."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bench.compare import HTTP, IMAGES, MEMORY, TEXTS
from bench.figures import Percentiles, Row, Served
from bench.images import ImageServer, image_server
from bench.load import Load, drive
from bench.machine import busy_cpu_s
from bench.pod import Passes, cpu_s, full_size_pod, peak_mib, poll_health, workers_of
from bench.timing import new_process
from bench.work import ImageBatches, SingleImages, Texts, Work
from tools.testbed.process import SECRET, PodProcess

_NO_END_S = 3600.0
_WARM_UP_S = 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked for, and by how many clients at once."""

    what: str
    kind: str
    size: str | None
    batch: int
    clients: int

    def work(self, images: ImageServer) -> Work:
        if self.kind == TEXTS:
            return Texts(SECRET)
        urls = tuple(url for name, url in images.urls.items() if name.startswith(_prefix(self.size)))
        return SingleImages(urls, SECRET) if self.batch == 1 else ImageBatches(urls, SECRET, self.batch)


def single_images(size: str, clients: int) -> Case:
    return Case(f"single images, {size}", IMAGES, size, 1, clients)


def image_batches(size: str, clients: int) -> Case:
    return Case(f"batches of 16, {size}", IMAGES, size, 16, clients)


def texts(clients: int) -> Case:
    return Case("texts of ten words", TEXTS, None, 1, clients)


def measure(cases: Sequence[Case], jpegs: Mapping[str, Sequence[bytes]], seconds: float) -> Iterator[Row]:
    """One row per case, as soon as it is measured, then one of the pod's largest resident size."""
    with image_server(named_files(jpegs)) as images, full_size_pod() as pod, Bench.over(pod, images) as bench:
        bench.warm_up(cases, seconds)
        for case in cases:
            yield bench.run(case, seconds)
        [pod_pid] = bench.worker_pids
        yield Row(MEMORY, "pod: largest resident size", peak_mib(pod_pid), "MiB")


def named_files(jpegs: Mapping[str, Sequence[bytes]]) -> dict[str, bytes]:
    """What an image server takes; `Case.work` finds those of a size by their names."""
    return {f"{_prefix(size)}{number}.jpg": data for size, group in jpegs.items() for number, data in enumerate(group)}


@dataclass(frozen=True, slots=True)
class _Used:
    """Processor seconds used up to a time; `until` gives cores between two times."""

    at_s: float
    pod: float
    image_server: float
    machine: float

    @classmethod
    def now(cls, worker_pids: Sequence[int], image_server_pid: int) -> "_Used":
        return cls(time.monotonic(), sum(map(cpu_s, worker_pids)), cpu_s(image_server_pid), busy_cpu_s())

    def until(self, later: "_Used") -> "_Used":
        wall_s = later.at_s - self.at_s
        return _Used(
            wall_s,
            (later.pod - self.pod) / wall_s,
            (later.image_server - self.image_server) / wall_s,
            (later.machine - self.machine) / wall_s,
        )


@dataclass(slots=True)
class Bench:
    """A pod, an image server and a client process that is already running. `asked` numbers the requests."""

    base_url: str
    worker_pids: Sequence[int]
    images: ImageServer
    client: ProcessPoolExecutor
    asked: int = 0

    @classmethod
    @contextmanager
    def over(cls, pod: PodProcess, images: ImageServer) -> Iterator["Bench"]:
        with new_process() as client:
            yield cls(pod.base_url, [worker.pid for worker in workers_of(pod)], images, client)

    def warm_up(self, cases: Sequence[Case], seconds: float) -> None:
        """What the model and the pools allocate on first use is no part of a measurement."""
        for case in _first_of_each(cases):
            self.run(case, min(_WARM_UP_S, seconds))

    def run(self, case: Case, seconds: float) -> Row:
        """Let the clients of `case` send for `seconds`."""
        load = Load(self.base_url, case.work(self.images), case.clients, seconds, first_number=self.asked)
        passes_before = Passes.so_far(self.base_url)
        before = _Used.now(self.worker_pids, self.images.pid)
        running = self.client.submit(drive, load)
        health_ms = poll_health(self.base_url, running.done, seconds=_NO_END_S)
        outcome = running.result()
        used = before.until(_Used.now(self.worker_pids, self.images.pid))
        passes = passes_before.until(Passes.so_far(self.base_url))
        self.asked += len(outcome.latencies_ms)
        client_cores = outcome.cpu_s / outcome.elapsed_s
        served = Served(
            clients=case.clients,
            failed=outcome.failed,
            latency_ms=Percentiles.of(outcome.latencies_ms),
            health_ms=Percentiles.of(health_ms),
            pod_cores=round(used.pod, 3),
            client_cores=round(client_cores, 3),
            image_server_cores=round(used.image_server, 3),
            batch_size=round(passes.items / passes.count, 2) if passes.count else None,
            queue_ms=round(1000 * passes.queue_s / passes.items, 2) if passes.items else None,
        )
        others = max(0.0, used.machine - used.pod - used.image_server - client_cores)
        rate = outcome.vectors / outcome.elapsed_s
        return Row(HTTP, case.what, rate, f"{case.kind}/s", case.kind, other_cores=round(others, 3), served=served)


def _first_of_each(cases: Sequence[Case]) -> list[Case]:
    """One case of each kind."""
    return list({(case.kind, case.batch): case for case in reversed(cases)}.values())


def _prefix(size: str | None) -> str:
    return f"{size}-".replace(" ", "")
