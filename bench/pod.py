"""A full-size pod in a process of its own, and what the kernel says about it."""

import http.client
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from bench.trees import THIS, Tree
from bench.workload import full_size_model
from tools.testbed import exposition
from tools.testbed.process import PodProcess, pod_process

# The first start exports the model, which takes ten seconds on two idle cores.
_READY_TIMEOUT_S = 300.0
_READY_POLL_S = 0.01
HEALTH_POLL_S = 0.02

# Without a cache: what is measured is the work, and the load asks for the same pictures again and again.
FULL_SIZE = {"CLIP_DEVICE": "auto", "CLIP_DTYPE": "auto", "CLIP_ENGINE": "auto", "CACHE_BYTES": "0"}


@contextmanager
def full_size_pod(settings: Mapping[str, str] | None = None, tree: Tree = THIS) -> Iterator[PodProcess]:
    """A ready pod with the full-size model, unless `settings` name another, as production starts it; `settings` over
    that, and the code of `tree`.
    """
    given = {**FULL_SIZE, **tree.settings, **(settings or {})}
    if "CLIP_MODEL" not in given:
        given["CLIP_MODEL"] = str(full_size_model())
    with pod_process(given, ready=False, folder=tree.folder) as pod:
        wait_until_ready(pod)
        yield pod


def wait_until_ready(pod: PodProcess) -> None:
    """Poll /readyz. Raises `RuntimeError` with the pod's log when it has ended or takes minutes."""
    until_s = time.monotonic() + _READY_TIMEOUT_S
    with closing(connection(pod.base_url)) as asking:
        while time.monotonic() < until_s and pod.process.poll() is None:
            if _is_ready(asking):
                return
            time.sleep(_READY_POLL_S)
    raise RuntimeError(f"the pod is not ready:\n{pod.log()}")


def wait_for_workers(pod: PodProcess, workers: int) -> None:
    """Wait until so many serve: each says so in the log, and /readyz is answered for all of them together."""
    until_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < until_s:
        if sum(str(line["message"]).startswith("this worker serves") for line in pod.log_lines()) >= workers:
            return
        time.sleep(0.1)
    raise RuntimeError(f"not all of {workers} workers are ready:\n{pod.log()}")


def _is_ready(asking: http.client.HTTPConnection) -> bool:
    """A pod that cannot load its model breaks off, and ends a moment later; its log says why."""
    try:
        return get(asking, "/readyz") == 200
    except (OSError, http.client.HTTPException):
        asking.close()
        return False


def poll_health(base_url: str, stopped: Callable[[], bool], *, seconds: float) -> list[float]:
    """Ask /health over one kept-alive connection until `stopped` or for `seconds`; returns milliseconds, at least
    one. Raises `RuntimeError` for any status but 200."""
    taken_ms: list[float] = []
    until_s = time.monotonic() + seconds
    with closing(connection(base_url)) as asking:
        get(asking, "/livez")
        while not taken_ms or (time.monotonic() < until_s and not stopped()):
            started_s = time.perf_counter()
            status = get(asking, "/health")
            taken_ms.append((time.perf_counter() - started_s) * 1000)
            if status != 200:
                raise RuntimeError(f"/health answered {status}")
            time.sleep(HEALTH_POLL_S)
    return taken_ms


def connection(base_url: str) -> http.client.HTTPConnection:
    """Costs a tenth of what `requests` costs per call, on cores that the pod needs."""
    address = urlsplit(base_url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)


def get(asking: http.client.HTTPConnection, path: str) -> int:
    """The status of a GET."""
    asking.request("GET", path)
    answer = asking.getresponse()
    answer.read()
    return answer.status


def end_with_pods() -> None:
    """SIGTERM to the benchmark unwinds it as Ctrl-C does: its pods are in sessions of their own, and would stay."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))


@dataclass(frozen=True, slots=True)
class Passes:
    """Forward passes of a pod: how many, of how many items, and how long those had waited."""

    count: float
    items: float
    queue_s: float

    @classmethod
    def so_far(cls, base_url: str, modality: str | None = None) -> "Passes":
        """As `/metrics` has it, of one modality (`image`, `text`) or of both together."""
        every = exposition.samples(base_url)
        samples = [sample for sample in every if modality in (None, sample.labels.get("modality"))]
        names = ("clip_forward_passes_total", "clip_embedded_items_total", "clip_queue_seconds_total")
        return cls(*(sum(sample.value for sample in samples if sample.name == name) for name in names))

    def until(self, later: "Passes") -> "Passes":
        """Those in between."""
        return Passes(later.count - self.count, later.items - self.items, later.queue_s - self.queue_s)


def worker_of(pod: PodProcess) -> psutil.Process:
    """gunicorn's only worker: the process that holds the model."""
    [worker] = workers_of(pod)
    return worker


def workers_of(pod: PodProcess) -> list[psutil.Process]:
    """gunicorn's workers, each of which holds a model."""
    return psutil.Process(pod.process.pid).children()


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used, in user and kernel mode."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def peak_mib(pid: int) -> float:
    """The largest resident size so far, as the kernel keeps it."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
