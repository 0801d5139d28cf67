"""What a measurement gives: rows of one table, percentiles, and the whole report as JSON. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

# Raise it when a field changes its meaning: older files are then not compared with newer ones by mistake.
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of durations, in milliseconds; `count` is how many there were."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values_ms: Sequence[float]) -> "Percentiles":
        """Raises `ValueError` without values: a percentile of nothing is not zero."""
        if not len(values_ms):
            raise ValueError("no values to take percentiles of")
        p50, p95, p99 = (round(float(value), 2) for value in np.percentile(values_ms, [50, 95, 99]))
        return cls(len(values_ms), p50, p95, p99, round(float(max(values_ms)), 2))


@dataclass(frozen=True, slots=True)
class CardUse:
    """Of a GPU over a measurement: mean percent of the time that it was busy, mean watts, largest memory in MiB."""

    busy_percent: float
    watts: float
    memory_mib: float


@dataclass(frozen=True, slots=True)
class Served:
    """What else was seen while clients were served. Cores are CPU seconds per second of the measurement.

    `batch_size` is the mean over forward passes, `queue_ms` the mean time that an item waited for its pass; both are
    None where no pass was counted.
    """

    clients: int
    failed: int
    latency_ms: Percentiles
    health_ms: Percentiles
    pod_cores: float
    client_cores: float
    image_server_cores: float
    batch_size: float | None = None
    queue_ms: float | None = None
    card: CardUse | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `kind` (images, texts) says which naive rate and which ceiling it is compared with.

    `low` and `high` are the range of the measurements that `value` is the median of.
    `other_cores` is what everything but the measurement used of the machine: beside other work, a row measures that
    work too, and its ratios mean nothing.
    """

    section: str
    what: str
    value: float
    unit: str
    kind: str | None = None
    times_naive: float | None = None
    share_of_ceiling: float | None = None
    other_cores: float | None = None
    served: Served | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A goal beside what was measured; `met` is None where its rows were not measured."""

    goal: str
    measured: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    checks: tuple[Check, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    def find(self, section: str, what: str, *, clients: int | None = None) -> Row | None:
        """The row of that name, or None if it was not measured."""
        for row in self.rows:
            if (row.section, row.what) == (section, what) and (row.served.clients if row.served else None) == clients:
                return row
        return None

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_REPORTS.dump_json(self, indent=2) + b"\n")

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Raises pydantic's `ValidationError` for a file of another shape."""
        return _REPORTS.validate_json(path.read_bytes())


_REPORTS = TypeAdapter(Report)
