"""`/metrics`: what all processes of the pod have measured, in Prometheus' text format. The one user of its library.

Each worker keeps its figures where it counts, and hands them over in bulk, every few seconds, when it is asked and at
its end, to files that the library's multiprocess mode reads together. What was counted outlives the worker.
"""

import fcntl
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import prometheus_client as exposed
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from prometheus_client.values import MultiProcessValue

from core.metrics import Distribution, Kind, Measured, Metric, Reading, Together

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# Of the library: where its files are.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# In memory: a thread that writes to a mapped file on a disk that is slow holds up all others.
_MEMORY = "/dev/shm"  # noqa: S108 - the folder gets a name that nobody can guess
_PREFIX = "clip-metrics-"
# Locked while anybody uses the folder.
_OWNED = "owned"

# A worker that is killed loses what it has counted since; others are seen as they were at most so long ago. Nobody asks
# more often than every fifteen, and each time takes 4 ms of the interpreter that requests need.
_HAND_OVER_S = 5.0


def make_folder(*, memory: str = _MEMORY) -> None:
    """Before the first worker is started: an empty folder for the figures of all of them, which inherit its name."""
    parent = memory if os.access(memory, os.W_OK) else tempfile.gettempdir()
    _remove_orphans(Path(parent))
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    # Held by this process and by the workers, which are its forks, until the last of them has ended, however that was.
    owned = os.open(Path(folder, _OWNED), os.O_CREAT | os.O_RDONLY, 0o600)
    fcntl.flock(owned, fcntl.LOCK_EX)
    os.environ[_FOLDER_VARIABLE] = folder


def _remove_orphans(parent: Path) -> None:
    """What pods left here that were killed: nobody holds it any more."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            # Of another user it is not to be opened; a moment after it was made it has no such file yet.
            owned = os.open(folder / _OWNED, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(owned)


def remove_folder() -> None:
    """After the last worker has ended."""
    shutil.rmtree(os.environ[_FOLDER_VARIABLE], ignore_errors=True)


def forget_worker(pid: int) -> None:
    """It has ended: what it has counted stays, what was so of it at present does not."""
    mark_process_dead(pid)


class _Row:
    """Where the numbers of one reading are handed over: one, or of a histogram one for each bucket and the sum."""

    def __init__(self, metric: Metric, values: Sequence[Any]) -> None:
        """The `values` are of a class that the library makes."""
        self._values = values
        self._is_count = metric.kind is not Kind.GAUGE
        self._is_dated = metric.together is Together.LATEST
        self._handed_over: tuple[float, ...] = (0.0,) * len(values)

    def set(self, numbers: tuple[float, ...]) -> None:
        if numbers == self._handed_over and not self._is_dated:
            return
        for value, number, before in zip(self._values, numbers, self._handed_over, strict=True):
            if self._is_dated:
                value.set(number, time.time())
            elif not self._is_count:
                value.set(number)
            elif number != before:
                # By the difference: the file may have the counts of a dead worker that had the same number.
                value.inc(number - before)
        self._handed_over = numbers


class _OfAllProcesses(Collector):
    """What is in the files of all workers. The library's own collector fails where one has just been made, and where a
    worker was killed then: it is empty.
    """

    def collect(self) -> Iterable[exposed.Metric]:
        files = Path(os.environ[_FOLDER_VARIABLE]).glob("*.db")
        merged: Iterable[exposed.Metric] = MultiProcessCollector.merge([str(file) for file in files if _size(file)])
        return merged


def _size(file: Path) -> int:
    """0 for one that went with its worker."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


class Figures:
    """Hands over what `parts` have measured in one worker; made after the fork. `start` has it done regularly."""

    def __init__(self, parts: Sequence[Measured]) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._make_value = MultiProcessValue()
        self._rows: dict[tuple[str, tuple[str, ...]], _Row] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hand_over_regularly, name="metrics", daemon=True)

    def start(self) -> None:
        """On a thread of its own, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Hand over for the last time."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.hand_over()

    def hand_over(self) -> None:
        """Now; from any thread."""
        # Reading included: what is read first must not be written last, as a counter never falls.
        with self._lock:
            for part in self._parts:
                for reading in part.readings():
                    self._write(reading)

    def exposition(self) -> bytes:
        """The body of `/metrics`: this worker's figures as they are now, those of the others as they were just now."""
        self.hand_over()
        registry = CollectorRegistry()
        registry.register(_OfAllProcesses())
        return generate_latest(registry)

    def _hand_over_regularly(self) -> None:
        is_over = False
        while not is_over:
            try:
                self.hand_over()
            except Exception:
                logger.exception("what was measured could not be handed over")
            is_over = self._over.wait(_HAND_OVER_S)

    def _write(self, reading: Reading) -> None:
        key = reading.metric.name, reading.labels
        row = self._rows.get(key)
        if row is None:
            values = list(self._values_of(reading.metric, reading.labels))
            row = self._rows[key] = _Row(reading.metric, values)
        value = reading.value
        row.set((*value.counts, value.total) if isinstance(value, Distribution) else (value,))

    def _values_of(self, metric: Metric, labels: tuple[str, ...]) -> Iterator[Any]:
        """One; of a histogram one for each bucket, which the library adds up, and one for the sum."""
        if metric.kind is not Kind.HISTOGRAM:
            yield self._value_of(metric, metric.name, metric.labels, labels)
            return
        for bound in (*metric.bounds, math.inf):
            names, of_bucket = (*metric.labels, "le"), (*labels, floatToGoString(bound))
            yield self._value_of(metric, f"{metric.name}_bucket", names, of_bucket)
        yield self._value_of(metric, f"{metric.name}_sum", metric.labels, labels)

    def _value_of(self, metric: Metric, name: str, names: tuple[str, ...], labels: tuple[str, ...]) -> Any:  # noqa: ANN401
        return self._make_value(
            metric.kind.value,
            metric.name.removesuffix("_total"),
            name,
            names,
            labels,
            metric.meaning,
            # Of those that live: what a worker held is gone with it.
            multiprocess_mode=f"live{metric.together.value}",
        )
