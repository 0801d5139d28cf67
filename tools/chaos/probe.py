"""Asks after a pod's health twenty times a second from a process of its own, and weighs its processes meanwhile."""

import http.client
import multiprocessing
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import psutil

_PERIOD_S = 0.05


@dataclass(slots=True)
class Vitals:
    """`health_ms` of every answer, whatever its status; `pss_mb` at each look of all processes of the pod together,
    what they share counted once.
    """

    health_ms: list[float] = field(default_factory=list)
    pss_mb: list[float] = field(default_factory=list)

    @property
    def worst_ms(self) -> float:
        return max(self.health_ms, default=0.0)

    @property
    def peak_mb(self) -> float:
        return max(self.pss_mb, default=0.0)


@contextmanager
def probed(base_url: str, pid: int, *, path: str = "/health") -> Iterator[Vitals]:
    """Probe until the block ends; the vitals are filled then."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_probe, args=(theirs, base_url + path, pid), daemon=True)
    process.start()
    vitals = Vitals()
    try:
        assert ours.recv() == "started"
        yield vitals
    finally:
        ours.send("end")
        vitals.health_ms, vitals.pss_mb = ours.recv()
        process.join()


def _probe(connection: Connection, probed_url: str, pid: int) -> None:
    url = urlsplit(probed_url)
    health_ms: list[float] = []
    pss_mb: list[float] = []
    connection.send("started")
    while not connection.poll(_PERIOD_S):
        started_s = time.monotonic()
        with suppress(OSError, http.client.HTTPException):
            asked = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
            asked.request("GET", url.path)
            asked.getresponse().read()
            asked.close()
            health_ms.append((time.monotonic() - started_s) * 1000)
        with suppress(psutil.Error):
            master = psutil.Process(pid)
            pss_mb.append(sum(_pss_bytes(process) for process in [master, *master.children(recursive=True)]) / 1e6)
    connection.send((health_ms, pss_mb))


def _pss_bytes(process: psutil.Process) -> int:
    """0 for one that has just ended."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +([0-9]+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
