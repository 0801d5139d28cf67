"""The goals that a run is held against: goal, measured, met. Knows the rows by name, measures nothing."""

from collections.abc import Callable
from operator import attrgetter

from bench.compare import HTTP, START
from bench.figures import Check, Report, Row

HEALTH_P99_MS = 25.0
SECOND_START_S = 3.0

_TIMES_NAIVE: Callable[[Row], float | None] = attrgetter("times_naive")
_SHARE: Callable[[Row], float | None] = attrgetter("share_of_ceiling")

# The row that the last goal is about, named here for the section that measures it.
SECOND_START = "second start: process start to first vector"


def checks(report: Report) -> tuple[Check, ...]:
    """One check per goal; those whose rows this run has not measured say so."""
    batches = report.find(HTTP, "batches of 16, 1080p", clients=4)
    singles = report.find(HTTP, "single images, 1080p", clients=8)
    texts = report.find(HTTP, "texts of ten words", clients=16)
    return (
        _at_least("batches of 1080p, 4 clients: 2.8 times naive", batches, _TIMES_NAIVE, 2.8),
        _at_least("batches of 1080p, 4 clients: 75% of engine", batches, _SHARE, 0.75),
        _at_least("single images of 1080p, 8 clients: 2.5 times naive", singles, _TIMES_NAIVE, 2.5),
        _at_least("texts of ten words, 16 clients: 8 times naive", texts, _TIMES_NAIVE, 8.0),
        _health(report),
        _tail(report.find(HTTP, "single images, 1080p", clients=1)),
        _second_start(report.find(START, SECOND_START)),
    )


def _at_least(goal: str, row: Row | None, ratio: Callable[[Row], float | None], least: float) -> Check:
    measured = ratio(row) if row else None
    if row is None or row.served is None or measured is None:
        return Check(goal, "not measured", None)
    text = f"{measured:.1%}" if least < 1 else f"{measured:.2f} times"
    if row.served.failed:
        return Check(goal, f"{text}, but {row.served.failed} requests failed", met=False)
    return Check(goal, text, measured >= least)


def _health(report: Report) -> Check:
    """The worst row counts, not the mean over all."""
    goal = f"/health p99 under {HEALTH_P99_MS:.0f} ms in every row"
    rows = [(row.served.health_ms.p99, row) for row in report.rows if row.served]
    if not rows:
        return Check(goal, "not measured", None)
    worst_ms, row = max(rows, key=lambda pair: pair[0])
    clients = row.served.clients if row.served else 0
    return Check(goal, f"{worst_ms:.1f} ms ({row.what}, {clients} clients)", worst_ms < HEALTH_P99_MS)


def _tail(row: Row | None) -> Check:
    goal = "single image, 1 client: p99 at most 1.5 times the median"
    if row is None or row.served is None:
        return Check(goal, "not measured", None)
    latency = row.served.latency_ms
    ratio = latency.p99 / latency.p50
    return Check(goal, f"{ratio:.2f} times ({latency.p99:.1f} of {latency.p50:.1f} ms)", ratio <= 1.5)


def _second_start(row: Row | None) -> Check:
    goal = f"second start to first vector under {SECOND_START_S:.0f} s"
    if row is None:
        return Check(goal, "not measured", None)
    return Check(goal, f"{row.value:.2f} s", row.value < SECOND_START_S)
