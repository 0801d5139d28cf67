"""What a request tells its trace: its stages, from what is measured anyway. The spans are made in `core/spans.py`.

Loads no OpenTelemetry. Where no traces are wanted, a look at one variable per request is all that is done.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

from core.batching.items import Encoded, Group, Modality
from core.errors import ServiceError
from core.images.job import ImageJob

Result = TypeVar("Result")

# Seconds on the monotonic clock: begin and end.
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Stage:
    """Of a whole request: from when the first of its items began it to when the last one was through."""

    name: str
    began_s: float
    ended_s: float
    items: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of a request's images, or of its texts. `failures` are positions and codes."""

    modality: Modality
    items: int
    cached: int
    stages: Sequence[Stage]
    failures: Sequence[tuple[int, str]]


class Trace(Protocol):
    """Of one request; see `core.spans.RequestSpan`."""

    def note(self, progress: Progress) -> None: ...


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def within(trace: Trace, call: Callable[[], Result]) -> Result:
    """Return what `call` does; what is noted meanwhile on this thread belongs to `trace`."""
    before = _current.set(trace)
    try:
        return call()
    finally:
        _current.reset(before)


def note_images(group: Group, jobs: Sequence[ImageJob], rows: Sequence[Encoded | ServiceError]) -> None:
    """Tell this thread's trace, if it has one, of images that are done."""
    trace = _current.get()
    if trace is None:
        return
    computed = [(job, row) for job, row in zip(jobs, rows, strict=True) if isinstance(row, Encoded) and not row.cached]
    intervals = {
        "download": [_interval(job.download_began_s, job.download_ms) for job in jobs if job.download_began_s],
        "decode": [_interval(job.decode_began_s, job.decode_ms) for job in jobs if job.decode_began_s],
        "queue": [(job.decode_began_s + job.decode_ms / 1000, row.began_s) for job, row in computed],
        "forward": [_interval(row.began_s, row.inference_ms) for _, row in computed],
    }
    trace.note(_progress(Modality.IMAGE, group, rows, intervals))


def note_texts(group: Group, rows: Sequence[Encoded | ServiceError]) -> None:
    """Tell this thread's trace, if it has one, of texts that are done."""
    trace = _current.get()
    if trace is None:
        return
    computed = [row for row in rows if isinstance(row, Encoded) and not row.cached]
    intervals = {
        "queue": [(group.arrived_s, row.began_s) for row in computed],
        "forward": [_interval(row.began_s, row.inference_ms) for row in computed],
    }
    trace.note(_progress(Modality.TEXT, group, rows, intervals))


def _progress(
    modality: Modality,
    group: Group,
    rows: Sequence[Encoded | ServiceError],
    intervals: Mapping[str, Sequence[Interval]],
) -> Progress:
    bounds = (group.arrived_s, time.monotonic())
    return Progress(
        modality,
        items=len(rows),
        cached=sum(isinstance(row, Encoded) and row.cached for row in rows),
        stages=[_stage(name, of_items, bounds) for name, of_items in intervals.items() if of_items],
        failures=[(position, row.code) for position, row in enumerate(rows) if isinstance(row, ServiceError)],
    )


def _stage(name: str, intervals: Sequence[Interval], bounds: Interval) -> Stage:
    """Within the request's own time, whatever an image process says of it."""
    began_s = _within(bounds, min(began_s for began_s, _ in intervals))
    ended_s = _within((began_s, bounds[1]), max(ended_s for _, ended_s in intervals))
    return Stage(name, began_s, ended_s, len(intervals))


def _within(bounds: Interval, at_s: float) -> float:
    return max(bounds[0], min(bounds[1], at_s))


def _interval(began_s: float, took_ms: float) -> Interval:
    return began_s, began_s + took_ms / 1000
