"""20,000 images of ten hosts by `python -m bulk`, beside the pod's own batches: `make bench-bulk` (minutes).

One host is slow, one fails, one redirects to a private address. Then the same again with the driver killed at a third
and a process of a model at two thirds, which must come to the same output. Writes bench/results/bulk.json.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pyarrow as pa
from pyarrow import parquet

from bench.figures import Check
from bench.images import ImageServer, image_server
from bench.lines import Findings, Line, at_least, at_most, find, lines_table, ratio_of
from bench.load import Load, drive
from bench.machine import about, commit
from bench.pod import end_with_pods, full_size_pod
from bench.table import checklist
from bench.trees import THIS
from bench.work import ImageBatches, text_of
from bench.workload import RESULTS, ROOT, THUMBNAIL, pictures
from bulk.__main__ import PIECE_ROWS
from tools.testbed.process import MODEL_CACHE, SECRET, TINY_MODEL

BULK, POD = "python -m bulk, 10 hosts", "pod, batches of 16, 4 clients, 7 hosts"
RATE, REJECTS, SECONDS = "vectors/s", "rejects", "s"
MEMORY_EARLY, MEMORY_LATE, MEMORY_MOST = "MB at 1/4", "MB at 3/4", "MB most"
# What Ray, the plan and the output cost by the piece, whatever is in it.
PIECES, PIECES_RATE = "texts in pieces of one", "pieces/s"
_GOAL = 0.9
_FLAT = 1.1
# Of numbers of a vector of length 1: passes of another size round otherwise.
_SAME = 1e-4

_ROWS = 20_000
_HOSTS = 10
_SLOW, _FAILING, _REDIRECTING = 7, 8, 9
_SLOW_S = 0.2
_POD_SECONDS = 20.0
_SMALL_PIECES = 1_000
_LOOK_S = 0.5
_MB = 1e6

_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/secret.jpg\r\nContent-Length: 0\r\n\r\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--full-size", action="store_true", help="a ViT-B/32 instead of the bundled model")
    options = parser.parse_args()
    end_with_pods()
    model = {} if options.full_size else {"CLIP_MODEL": str(TINY_MODEL)}
    before = about(
        {
            "rows": options.rows,
            "model": "ViT-B/32" if options.full_size else TINY_MODEL.name,
            "commit": commit(THIS.folder),
        }
    )
    with tempfile.TemporaryDirectory() as folder, _hosts() as hosts:
        settings = {**model, "DOWNLOAD_ALLOW_HOSTS": ",".join(host.address for host in hosts), "CACHE_BYTES": "0"}
        bench = _Bench(Path(folder), hosts, settings, options.rows)
        first = bench.pod()
        run = bench.bulk("undisturbed")
        second = bench.pod()
        killed = bench.disturbed()
        differences = _differences(run.output, killed)
        pieces = bench.pieces()
    lines = [_pod_line(first, second), run.line(), Line(PIECES, THIS.label, {PIECES_RATE: pieces})]
    checks = (*_checks(lines, options.rows, run), _same(differences))
    print(f"{before['machine']['processor']}\n")
    print(lines_table(lines), "\n")
    print(checklist(checks))
    Findings(before, tuple(lines), checks).write(RESULTS / "bulk.json")


@dataclass(frozen=True, slots=True)
class _Host:
    address: str
    server: ImageServer


@contextmanager
def _hosts() -> Iterator[list[_Host]]:
    files = {f"{number}.jpg": data for number, data in enumerate(pictures(THUMBNAIL))}
    others = {_FAILING: _UNAVAILABLE, _REDIRECTING: _REDIRECT}
    with ExitStack() as stack:
        hosts = []
        for number in range(_HOSTS):
            address = f"127.0.0.{number + 1}"
            delay_s = _SLOW_S if number == _SLOW else 0.0
            server = image_server(files, host=address, delay_s=delay_s, other=others.get(number))
            hosts.append(_Host(address, stack.enter_context(server)))
        yield hosts


@dataclass(slots=True)
class _Memory:
    """Of a process and all below it, each page counted once, looked at again and again."""

    bytes_at: list[float] = field(default_factory=list)

    def look(self, process: psutil.Process) -> None:
        self.bytes_at.append(sum(map(_proportional_bytes, [process, *process.children(recursive=True)])))

    def around(self, share: float) -> float:
        """The median of what was seen around so much of the time, in MB."""
        middle, width = int(len(self.bytes_at) * share), max(1, len(self.bytes_at) // 10)
        return float(np.median(self.bytes_at[max(0, middle - width) : middle + width])) / _MB


@dataclass(frozen=True, slots=True)
class _Ran:
    output: Path
    summary: dict[str, Any]
    memory: _Memory

    def line(self) -> Line:
        rate = self.summary["rows_per_second_once_running"] * self.summary["vectors"] / self.summary["rows"]
        return Line(
            BULK,
            THIS.label,
            {
                RATE: rate,
                REJECTS: float(self.summary["rejects"]),
                SECONDS: self.summary["seconds"],
                MEMORY_EARLY: self.memory.around(0.35),
                MEMORY_LATE: self.memory.around(0.85),
                MEMORY_MOST: max(self.memory.bytes_at) / _MB,
            },
        )


class _Bench:
    """The same rows each time, in a folder of its own."""

    def __init__(self, folder: Path, hosts: Sequence[_Host], settings: dict[str, str], rows: int) -> None:
        self._folder = folder
        self._hosts = hosts
        self._settings = settings
        self._pieces = rows / PIECE_ROWS
        self._input = folder / "urls.parquet"
        urls = [url for each in zip(*(host.server.urls.values() for host in hosts), strict=True) for url in each]
        # By random host, as a table of scenes has them; none comes twice.
        chosen = np.random.default_rng(0).integers(0, len(urls), rows).tolist()
        table = pa.table({"id": range(rows), "url": [f"{urls[index]}?{row}" for row, index in enumerate(chosen)]})
        parquet.write_table(table, self._input)

    def pod(self) -> float:
        """Vectors a second of a pod, from hosts that answer at once."""
        urls = tuple(url for host in self._hosts[:_SLOW] for url in host.server.urls.values())
        with full_size_pod(self._settings) as pod:
            load = Load(pod.base_url, ImageBatches(urls, SECRET), 4, _POD_SECONDS / 4, 0)
            drive(load)
            outcome = drive(Load(pod.base_url, ImageBatches(urls, SECRET), 4, _POD_SECONDS, 1_000_000))
        if outcome.failed:
            raise RuntimeError(f"{outcome.failed} requests of the pod failed")
        return outcome.vectors / outcome.elapsed_s

    def bulk(self, name: str) -> _Ran:
        """Run to the end."""
        output = self._folder / name
        memory = _Memory()
        with self._driver(output) as driver:
            process = psutil.Process(driver.pid)
            while driver.poll() is None:
                if _pieces(output):
                    memory.look(process)
                time.sleep(_LOOK_S)
        return _Ran(output, _summary(output), memory)

    def pieces(self) -> float:
        """Pieces a second, of next to nothing."""
        texts = self._folder / "texts.parquet"
        parquet.write_table(pa.table({"text": [text_of(number) for number in range(_SMALL_PIECES)]}), texts)
        output = self._folder / "pieces"
        with self._driver(output, "--piece-rows", "1", given=[str(texts), "--text-column", "text"]):
            pass
        return float(_summary(output)["rows_per_second_once_running"])

    def disturbed(self) -> Path:
        """Kill the driver at a third, go on, and kill a process of the model at two thirds."""
        output = self._folder / "disturbed"
        with self._driver(output) as driver:
            _wait_for(lambda: _pieces(output) >= self._pieces / 3, driver)
            driver.kill()
        with self._driver(output, "--resume") as driver:
            _wait_for(lambda: _pieces(output) >= self._pieces * 2 / 3, driver)
            os.kill(_process_of(driver.pid, "EncodeImages"), signal.SIGKILL)
            driver.wait()
        return output

    @contextmanager
    def _driver(self, output: Path, *more: str, given: Sequence[str] = ()) -> Iterator["subprocess.Popen[bytes]"]:
        images = [str(self._input), "--id-column", "id", "--url-column", "url"]
        command = [sys.executable, "-m", "bulk", "embed", "--output", str(output), "--input", *(given or images)]
        environ = {**os.environ, "CLIP_CACHE_DIR": str(MODEL_CACHE), "CLIP_DTYPE": "auto", **self._settings}
        driver = subprocess.Popen([*command, *more], env=environ, cwd=ROOT)  # noqa: S603 - our own
        try:
            yield driver
            driver.wait()
        finally:
            driver.terminate()
            driver.wait()


def _pieces(output: Path) -> int:
    """How many are done; there is one part, which takes their place in the end."""
    return len(list((output / "_bulk" / "pieces").glob("*.parquet")))


def _wait_for(what: Callable[[], bool], driver: "subprocess.Popen[bytes]") -> None:
    """Raises `RuntimeError` when the driver ends first."""
    while not what():
        if driver.poll() is not None:
            raise RuntimeError("the run ended before it could be disturbed: give it more rows")
        time.sleep(_LOOK_S / 5)


def _process_of(driver: int, stage: str) -> int:
    """The process of one of a run's stages: all that a local Ray starts is below the driver."""
    for process in psutil.Process(driver).children(recursive=True):
        if f"MapBatches({stage})" in " ".join(process.cmdline()):
            return process.pid
    raise RuntimeError(f"there is no process of {stage}")


def _proportional_bytes(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.Error:
        return 0.0


def _summary(output: Path) -> dict[str, Any]:
    summary: dict[str, Any] = orjson.loads((output / "summary.json").read_bytes())
    return summary


def _differences(one: Path, other: Path) -> float:
    """How far the vectors of two outputs are from each other at most; infinite unless they have the same rows."""
    tables = [[parquet.read_table(output / name) for output in (one, other)] for name in ("vectors", "rejects")]
    if any(pair[0].column("id") != pair[1].column("id") for pair in tables):
        return float("inf")
    first, second = (np.stack(table.column("vector").to_numpy(zero_copy_only=False)) for table in tables[0])
    return float(np.abs(first - second).max())


def _pod_line(first: float, second: float) -> Line:
    return Line(POD, THIS.label, {RATE: (first + second) / 2, "before": first, "after": second})


def _checks(lines: Sequence[Line], rows: int, run: _Ran) -> tuple[Check, ...]:
    ratio = ratio_of(find(lines, BULK, RATE), find(lines, POD, RATE))
    growth = ratio_of(find(lines, BULK, MEMORY_LATE), find(lines, BULK, MEMORY_EARLY))
    summary = run.summary
    closed = summary["vectors"] + summary["rejects"] == rows == summary["rows"]
    return (
        at_least(f"vectors/s: >= {_GOAL} of the pod's", ratio, _GOAL),
        at_most(f"memory late in the run: <= {_FLAT} times that of its beginning", growth, _FLAT, " times"),
        Check("vectors + rejects = rows", f"{summary['vectors']} + {summary['rejects']} = {rows}", closed),
    )


def _same(difference: float) -> Check:
    goal = "driver killed at 1/3, a model at 2/3: the same rows, and vectors"
    return Check(goal, f"{difference:.1e} apart at most", difference <= _SAME)


if __name__ == "__main__":
    main()
