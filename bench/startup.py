"""From process start to the first vector, beside what merely importing the libraries takes, and its parts.

`python -m bench.startup` prints it, second starts and imports in turn; `--pairs` says how many of them.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import requests

from bench.compare import START
from bench.figures import Row
from bench.goals import SECOND_START
from bench.machine import machine
from bench.pod import FULL_SIZE, wait_until_ready
from bench.table import table
from bench.work import Texts
from bench.workload import full_size_model
from tools.testbed.process import MODEL_CACHE, SECRET, PodProcess, pod_process

# What a start on OpenVINO cannot do without. No start can be faster than importing it.
_LIBRARIES = (
    "openvino", "numpy", "pydantic", "tokenizers", "safetensors", "flask", "gunicorn", "gevent", "PIL", "simplejpeg",
    "orjson", "prometheus_client",
)  # fmt: skip
IMPORTS = "a process that imports the libraries"
TIMES_IMPORTS = "second start, in times of that"
_PAIRS = 3

# What of an import is worth a line.
_LEAST_IMPORT_S = 0.05
# `import time:  self [us] | cumulative | name`, the name indented by its depth.
_IMPORT = re.compile(r"import time: +\d+ \| +(\d+) \| (\s*)([\w.]+)$")
_PACKAGES = (
    "torch", "transformers", "openvino", "numpy", "PIL", "simplejpeg", "tokenizers", "safetensors",
    "pydantic", "flask", "gevent", "gunicorn", "asyncio",
)  # fmt: skip


def measure(*, first: bool, pairs: int = _PAIRS) -> Iterator[Row]:
    """Rows of a first start with an empty cache, if wanted, and of the median second one, with its parts."""
    with _cache(empty=first) as cache:
        first_s, _ = _start(cache)
        if first:
            yield Row(START, "first start, empty cache: to first vector", first_s, "s")
        imports, starts = zip(*((_import_s(), _start(cache)) for _ in range(pairs)), strict=True)
        second_s, pod_log = sorted(starts, key=lambda start: start[0])[pairs // 2]
        yield Row(START, SECOND_START, second_s, "s")
        yield Row(START, IMPORTS, median(imports), "s")
        yield Row(START, TIMES_IMPORTS, second_s / median(imports), "times")
        yield from (Row(START, f"  of it: {part}", value_s, "s") for part, value_s in parts(pod_log))
        _, traced_log = _start(cache, {"PYTHONPROFILEIMPORTTIME": "1"})
        traced = imports_s(traced_log.raw)
        yield from (Row(START, f"  import {name} (traced)", value_s, "s") for name, value_s in traced.items())


class _Log:
    """What a pod has written, and the wall-clock time it was started at."""

    def __init__(self, pod: PodProcess, started_at_s: float) -> None:
        self.started_at_s = started_at_s
        self.lines = pod.log_lines()
        self.raw = pod.log()


@contextmanager
def _cache(*, empty: bool) -> Iterator[Path]:
    """The cache of all runs, or one that is empty now and gone afterwards."""
    if not empty:
        yield MODEL_CACHE
        return
    MODEL_CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL_CACHE.parent, prefix="bench-") as folder:
        yield Path(folder)


def _import_s() -> float:
    """Seconds until a process that only imports has ended."""
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {', '.join(_LIBRARIES)}"], check=True)  # noqa: S603 - constants
    return time.monotonic() - started_s


def _start(cache: Path, more: Mapping[str, str] | None = None) -> tuple[float, _Log]:
    """Seconds from the start of the process to the first vector in a client's hands."""
    settings = {"CLIP_MODEL": str(full_size_model()), "CLIP_CACHE_DIR": str(cache), **FULL_SIZE, **(more or {})}
    started_s, started_at_s = time.monotonic(), time.time()
    with pod_process(settings, ready=False) as pod:
        wait_until_ready(pod)
        request = Texts(SECRET).request(0)
        requests.post(pod.base_url + request.path, data=request.body, timeout=60).raise_for_status()
        return time.monotonic() - started_s, _Log(pod, started_at_s)


def parts(log: _Log) -> list[tuple[str, float]]:
    """Times after the process start at which the log says something, and durations that it states itself."""
    found = []
    for line in log.lines:
        message = str(line["message"])
        if message.startswith(("Listening at", "Booting worker", "model ready")):
            found.append((f"{message.split(':')[0]}, after", _time_s(line) - log.started_at_s))
        found += [(f"{message}: {name}", float(value)) for name, value in line.items() if _is_duration(name, value)]
    return found


def imports_s(trace: str) -> dict[str, float]:
    """Seconds per package of ours to watch, imports of its own imports included, from `-X importtime` output.

    A package that another one of the list has imported counts for both.
    """
    found: dict[str, float] = {}
    for line in trace.splitlines():
        match = _IMPORT.search(line)
        if match and match[3] in _PACKAGES:
            found[match[3]] = max(found.get(match[3], 0.0), int(match[1]) / 1e6)
    kept = {name: value_s for name, value_s in found.items() if value_s >= _LEAST_IMPORT_S}
    return dict(sorted(kept.items(), key=lambda pair: -pair[1]))


def _time_s(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(line["time"])).timestamp()


def _is_duration(name: str, value: object) -> bool:
    return name.endswith("_s") and isinstance(value, int | float)


def main() -> None:
    """Print the table. What else the machine does shows in the times and, less, in their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=9, help="starts and imports to take the medians of")
    options = parser.parse_args()
    print(table(list(measure(first=False, pairs=options.pairs))))
    print(f"\n{machine(Path('/proc/cpuinfo').read_text())}")


if __name__ == "__main__":
    main()
