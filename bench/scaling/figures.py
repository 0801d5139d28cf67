"""What a reader wants to know of each way: a line of a table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.lines import Line
from bench.scaling.simulation import Done, Outcome, Way, World, simulate
from bench.scaling.traffic import DAY_S, Job, Kind
from bench.trees import THIS

P50, P99, BESIDE = "search p50 ms", "search p99 ms", "p99 ms beside bursts"
LOST_SEARCHES, LOST_IMAGES = "searches lost", "images lost"
BURST, LONGEST, BACKFILL = "burst median s", "burst longest s", "backfill s"
PODS, WORKERS, COST = "pods", "workers", "cost a day"


@dataclass(frozen=True, slots=True)
class Span:
    """From a burst's first request to its last outcome."""

    begin_s: float
    end_s: float


def quietly_simulated(way: Way, *, world: World, jobs: Sequence[Job], seed: int) -> Line:
    """Of a process of its own: a client's switch to the fallback and back is what is simulated, and no news."""
    logging.getLogger("clip_embedding_client").setLevel(logging.ERROR)
    return line_of(simulate(way, world, jobs, seed))


def line_of(outcome: Outcome) -> Line:
    """Pods and workers are means over the day. A figure without a job to take it from is None."""
    searches, bursts = outcome.of(Kind.SEARCH), outcome.of(Kind.BURST)
    backfills = outcome.of(Kind.BACKFILL)
    spans = [Span(done.job.at_s, done.last_s) for done in bursts]
    burst_s = [done.seconds for done in bursts]
    return Line(
        outcome.way.name,
        THIS.label,
        {
            P50: percentile_ms(searches, 50),
            P99: percentile_ms(searches, 99),
            BESIDE: percentile_ms(within(searches, spans), 99),
            LOST_SEARCHES: float(sum(done.lost for done in searches)),
            BURST: float(np.median(burst_s)) if burst_s else None,
            LONGEST: max(burst_s, default=None),
            BACKFILL: max((done.seconds for done in backfills), default=None),
            LOST_IMAGES: float(sum(done.lost for done in (*bursts, *backfills))),
            PODS: outcome.paid_pod_s / DAY_S,
            WORKERS: outcome.paid_serverless_s / DAY_S,
            COST: outcome.cost,
        },
    )


def percentile_ms(searches: Sequence[Done], percent: float) -> float | None:
    """Of those that were answered; None if none was. What was lost has its own column."""
    answered = [done.seconds for done in searches if done.answered]
    return float(np.percentile(answered, percent)) * 1000 if answered else None


def within(searches: Sequence[Done], spans: Sequence[Span]) -> list[Done]:
    """Those that were asked while one of the spans lasted."""
    return [done for done in searches if any(span.begin_s <= done.job.at_s <= span.end_s for span in spans)]
