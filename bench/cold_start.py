"""From a process's start to its first vector, on whatever device is here: `python -m bench.cold_start`.

The handler with a job that waits for it, as an endpoint that has scaled to zero has one; the pod; and beside both a
process that imports torch and wakes the device, which no start can be faster than. Full-size model, its weights in the
kernel's memory after the first round. Writes bench/results/cold-start.json.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import requests

from bench.gpu_card import card
from bench.lines import Findings, Line, lines_table
from bench.machine import about, commit
from bench.pod import FULL_SIZE, end_with_pods, full_size_pod
from bench.trees import THIS
from bench.work import Texts
from bench.workload import RESULTS, full_size_model
from tools.testbed.control_plane import control_plane
from tools.testbed.process import SECRET, handler_process
from tools.testbed.target import signed_text

FIRST, MEDIAN, LONGEST = "first s", "median s", "longest s"
_ANSWER_TIMEOUT_S = 300.0
_LOOK_S = 0.5
_ROUNDS = 5
_IMPORTS = "import torch; torch.zeros(1, device='cuda' if torch.cuda.is_available() else 'cpu')"
_HOW: Mapping[str, Mapping[str, str]] = {"graphs": {}, "no graphs": {"CLIP_CUDA_GRAPHS": "0"}}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    end_with_pods()
    before = about({"rounds": options.rounds, "commit": commit(THIS.folder), "card": dict(card())})
    starts: dict[str, Callable[[], float]] = {"imports torch, wakes the device": _import_s}
    for how, settings in _HOW.items():
        given = {**FULL_SIZE, **settings, "CLIP_MODEL": str(full_size_model())}
        starts[f"handler, {how}"] = partial(_handler_s, given)
        starts[f"pod, {how}"] = partial(_pod_s, given)
    # In turn, so that what the machine does beside it is in all of them.
    rounds = [{what: start() for what, start in starts.items()} for _ in range(options.rounds)]
    lines = tuple(_line(what, [one[what] for one in rounds]) for what in starts)
    print(lines_table(lines))
    Findings(before, lines, ()).write(RESULTS / "cold-start.json")


def _line(what: str, taken_s: list[float]) -> Line:
    return Line(what, THIS.label, {FIRST: taken_s[0], MEDIAN: median(taken_s), LONGEST: max(taken_s)})


def _import_s() -> float:
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)  # noqa: S603 - constants
    return time.perf_counter() - started_s


def _handler_s(settings: Mapping[str, str]) -> float:
    """With a job in the queue from the start."""
    with control_plane() as plane:
        job = plane.submit(signed_text("a red boat on a quiet river"))
        started_s = time.perf_counter()
        with handler_process({**plane.worker_environment(), **settings}) as handler:
            while not job.done.wait(_LOOK_S) and handler.process.poll() is None:
                pass
            if "output" not in job.result:
                raise RuntimeError(f"{job.result}\n{handler.log()}")
            return time.perf_counter() - started_s


def _pod_s(settings: Mapping[str, str]) -> float:
    """With a client that asks as soon as it is ready."""
    started_s = time.perf_counter()
    with full_size_pod(settings) as pod:
        request = Texts(SECRET).request(0)
        requests.post(pod.base_url + request.path, data=request.body, timeout=_ANSWER_TIMEOUT_S).raise_for_status()
        return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
