"""`/metrics`: what all processes of the pod have measured, in Prometheus' text format. The one user of its library.

Each worker keeps its figures where it counts, and hands them over in bulk: once a second, when it is asked, and at its
end, to files that the library's multiprocess mode reads together. What was counted outlives the worker that counted it.
"""

import logging
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.utils import floatToGoString
from prometheus_client.values import MultiProcessValue

from core.metrics import Distribution, Kind, Measured, Metric, Reading

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# Of the library: where its files are.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# In memory: a thread that writes to a mapped file on a disk that is slow holds up all others.
_MEMORY = "/dev/shm"  # noqa: S108 - the folder gets a name that nobody can guess

# A worker that is killed loses what it has counted since; others are seen as they were at most so long ago.
_HAND_OVER_S = 1.0


def make_folder() -> None:
    """Before the first worker is started: an empty folder for the figures of all of them, which inherit its name."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    os.environ[_FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="clip-metrics-", dir=memory)


def remove_folder() -> None:
    """After the last worker has ended."""
    shutil.rmtree(os.environ[_FOLDER_VARIABLE], ignore_errors=True)


def forget_worker(pid: int) -> None:
    """It has ended: what it has counted stays, what was so of it at present does not."""
    mark_process_dead(pid)


class _Cell:
    """Where one number is handed over."""

    def __init__(self, value: Any, *, is_count: bool) -> None:  # noqa: ANN401 - of a class that the library makes
        self._value = value
        self._is_count = is_count
        self._handed_over = 0.0

    def set(self, number: float) -> None:
        if number == self._handed_over:
            return
        if self._is_count:
            # By the difference: the file may have the counts of a dead worker that had the same number.
            self._value.inc(number - self._handed_over)
        else:
            self._value.set(number)
        self._handed_over = number


class Figures:
    """Hands over what `parts` have measured in one worker; made after the fork. `start` has it done regularly."""

    def __init__(self, parts: Sequence[Measured]) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._make_value = MultiProcessValue()
        self._cells: dict[tuple[str, tuple[str, ...]], Sequence[_Cell]] = {}
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
        MultiProcessCollector(registry)
        return generate_latest(registry)

    def _hand_over_regularly(self) -> None:
        while not self._over.wait(_HAND_OVER_S):
            try:
                self.hand_over()
            except Exception:
                logger.exception("what was measured could not be handed over")

    def _write(self, reading: Reading) -> None:
        key = reading.metric.name, reading.labels
        cells = self._cells.get(key)
        if cells is None:
            cells = self._cells[key] = list(self._make_cells(reading.metric, reading.labels))
        value = reading.value
        numbers = (*value.counts, value.total) if isinstance(value, Distribution) else (value,)
        for cell, number in zip(cells, numbers, strict=True):
            cell.set(number)

    def _make_cells(self, metric: Metric, values: tuple[str, ...]) -> Iterator[_Cell]:
        """One; of a histogram one for each bucket, which the library adds up, and one for the sum."""
        if metric.kind is not Kind.HISTOGRAM:
            yield self._make_cell(metric, metric.name, metric.labels, values)
            return
        for bound in (*metric.bounds, math.inf):
            labels, of_bucket = (*metric.labels, "le"), (*values, floatToGoString(bound))
            yield self._make_cell(metric, f"{metric.name}_bucket", labels, of_bucket)
        yield self._make_cell(metric, f"{metric.name}_sum", metric.labels, values)

    def _make_cell(self, metric: Metric, name: str, labels: tuple[str, ...], values: tuple[str, ...]) -> _Cell:
        value = self._make_value(
            metric.kind.value,
            metric.name.removesuffix("_total"),
            name,
            labels,
            values,
            metric.meaning,
            # Of those that live: what a worker held is gone with it.
            multiprocess_mode=f"live{metric.together.value}",
        )
        return _Cell(value, is_count=metric.kind is not Kind.GAUGE)
