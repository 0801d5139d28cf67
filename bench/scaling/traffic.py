"""What is asked for in a day: searches, bursts of video processing, a backfill; drawn, or read from a file."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

import numpy as np

DAY_S = 86_400.0
_COLUMNS = ["at_s", "kind", "items", "workers"]
# When people search most; twelve hours later they do least.
_PEAK_S = 15 * 3600.0
# The curve's height over its mean: at night hardly anybody searches.
_SWING = 0.9


class Kind(Enum):
    """What a job is: a person who waits for one text, or images of which the last one counts."""

    SEARCH = "search"
    BURST = "burst"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Job:
    """A search is one text, sent by one of the front ends. Images are sent in batches by `workers` processes, each of
    which has as many batches on their way as the client's settings say, and takes the next when one is answered."""

    at_s: float
    kind: Kind
    items: int
    workers: int


@dataclass(frozen=True, slots=True)
class Day:
    """How much of what is drawn. A burst is the frames of some videos: `burst_images` on average, most have less."""

    searches: int = 40_000
    bursts: int = 8
    burst_images: int = 150_000
    burst_workers: int = 40
    backfill_images: int = 500_000
    backfill_workers: int = 4
    backfill_at_s: float = 3600.0

    def jobs(self, seed: int) -> list[Job]:
        """In the order of their times. Searches and bursts follow the daily curve, each at random."""
        draw = np.random.default_rng(seed)
        searches = [Job(at_s, Kind.SEARCH, 1, 0) for at_s in _times(draw, self.searches)]
        bursts = [
            Job(at_s, Kind.BURST, 1 + int(draw.exponential(self.burst_images)), self.burst_workers)
            for at_s in _times(draw, self.bursts)
        ]
        backfill = [Job(self.backfill_at_s, Kind.BACKFILL, self.backfill_images, self.backfill_workers)]
        return sorted([*searches, *bursts, *(backfill if self.backfill_images else [])], key=lambda job: job.at_s)


def share_of_peak(at_s: float) -> float:
    """The daily curve: 1 at its highest."""
    return float((1 + _SWING * np.cos(2 * np.pi * (at_s - _PEAK_S) / DAY_S)) / (1 + _SWING))


def _times(draw: np.random.Generator, count: int) -> list[float]:
    """Moments of a day, the more likely the higher the curve: those above it are drawn again."""
    times = list[float]()
    while len(times) < count:
        at_s = float(draw.uniform(0.0, DAY_S))
        if draw.uniform() < share_of_peak(at_s):
            times.append(at_s)
    return times


def read_trace(path: Path) -> list[Job]:
    """Jobs of a CSV file with the columns at_s, kind, items, workers, in the order of their times.

    Raises `ValueError` that names the line.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames != _COLUMNS:
            raise ValueError(f"{path}: the first line must be {','.join(_COLUMNS)}")
        jobs = [_job(row, f"{path}, line {rows.line_num}") for row in rows]
    if not jobs:
        raise ValueError(f"{path}: no jobs")
    if any(later.at_s < sooner.at_s for sooner, later in pairwise(jobs)):
        raise ValueError(f"{path}: must be in the order of at_s")
    return jobs


def _job(row: dict[str, str], where: str) -> Job:
    try:
        job = Job(float(row["at_s"]), Kind(row["kind"]), int(row["items"]), int(row["workers"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    is_search = job.kind is Kind.SEARCH
    if not 0 <= job.at_s < float("inf") or job.items < 1 or (is_search and job.items != 1):
        raise ValueError(f"{where}: at_s from 0 on; items from 1 on, and 1 for a search")
    if (job.workers < 1) is not is_search:
        raise ValueError(f"{where}: workers is 0 for a search, and at least 1 for images")
    return job


def write_trace(jobs: Sequence[Job], path: Path) -> None:
    """As `read_trace` takes it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        rows.writerows([job.at_s, job.kind.value, job.items, job.workers] for job in jobs)
