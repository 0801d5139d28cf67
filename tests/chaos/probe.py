"""Asks /health twenty times a second from a process of its own, and weighs the pod's processes meanwhile."""

import http.client
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import psutil

_PERIOD_S = 0.05


@dataclass(slots=True)
class Vitals:
    """`health_ms` of every answer, whatever its status; `rss_mb` of master and workers together, at each look."""

    health_ms: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    @property
    def worst_ms(self) -> float:
        return max(self.health_ms, default=0.0)

    @property
    def peak_mb(self) -> float:
        return max(self.rss_mb, default=0.0)


@contextmanager
def probed(base_url: str, pid: int) -> Iterator[Vitals]:
    """Probe until the block ends; the vitals are filled then."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_probe, args=(theirs, base_url, pid), daemon=True)
    process.start()
    vitals = Vitals()
    try:
        assert ours.recv() == "started"
        yield vitals
    finally:
        ours.send("end")
        vitals.health_ms, vitals.rss_mb = ours.recv()
        process.join()


def _probe(connection: Connection, base_url: str, pid: int) -> None:
    url = urlsplit(base_url)
    health_ms: list[float] = []
    rss_mb: list[float] = []
    connection.send("started")
    while not connection.poll(_PERIOD_S):
        started_s = time.monotonic()
        with suppress(OSError, http.client.HTTPException):
            asked = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
            asked.request("GET", "/health")
            asked.getresponse().read()
            asked.close()
            health_ms.append((time.monotonic() - started_s) * 1000)
        with suppress(psutil.Error):
            master = psutil.Process(pid)
            rss_mb.append(sum(process.memory_info().rss for process in [master, *master.children()]) / 1e6)
    connection.send((health_ms, rss_mb))
