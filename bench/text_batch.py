"""Texts in batches of 256 beside as many asked for one by one: `make bench-text-batch` (full-size model, a minute).

In rounds, one after the other, on one pod. Writes bench/results/text_batch.json.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import count

from bench.figures import Percentiles
from bench.lines import Findings, Line, at_least, find, lines_table, ratio_of, unless_failed
from bench.load import Load, drive
from bench.machine import about, commit
from bench.pod import end_with_pods, full_size_pod
from bench.table import checklist
from bench.trees import THIS
from bench.work import TextBatches, Texts, Work
from bench.workload import RESULTS
from tools.testbed.process import SECRET

SIZE = 256
_ROUNDS = 5
_NO_END_S = 3600.0
_NUMBERS_PER_ROUND = 20_000
_GOAL = 3.0

RATE, P50, FAILED = "texts/s", "p50 ms", "failed"


@dataclass(frozen=True, slots=True)
class Case:
    """`requests` are sent by `clients` in one round."""

    what: str
    work: Work
    clients: int
    requests: int


ONE_BY_ONE = "256 texts, one by one, 1 client"
BATCH = "256 texts in one batch, 1 client"
CASES = (
    Case(ONE_BY_ONE, Texts(SECRET), 1, SIZE),
    Case("256 texts, one by one, 16 clients", Texts(SECRET), 16, SIZE),
    Case(BATCH, TextBatches(SECRET, SIZE), 1, 1),
    Case("4 batches of 256 texts, 4 clients", TextBatches(SECRET, SIZE), 4, 4),
)


def main() -> None:
    """Measure, print and write."""
    end_with_pods()
    before = about({"rounds": _ROUNDS, "commit": commit(THIS.folder)})
    lines = _measure()
    ratio = ratio_of(find(lines, BATCH, RATE), find(lines, ONE_BY_ONE, RATE))
    check = at_least(f"one batch: >= {_GOAL} times the texts/s of one by one", ratio, _GOAL)
    checks = (unless_failed(check, find(lines, BATCH, FAILED)),)
    print(f"{before['machine']['processor']}, {_ROUNDS} rounds\n")
    print(lines_table(lines), "\n")
    print(checklist(checks))
    Findings(before, tuple(lines), checks).write(RESULTS / "text_batch.json")


def _measure() -> list[Line]:
    vectors, failed, elapsed_s = defaultdict[str, int](int), defaultdict[str, int](int), defaultdict[str, float](float)
    latencies_ms = defaultdict[str, list[float]](list)
    numbers = count(0, _NUMBERS_PER_ROUND)
    with full_size_pod() as pod:
        for counted in (False, *[True] * _ROUNDS):
            for case in CASES:
                # Every text is new: no cache answers for the model.
                first = next(numbers)
                load = Load(pod.base_url, case.work, case.clients, _NO_END_S, first, most_requests=case.requests)
                outcome = drive(load)
                if counted:
                    vectors[case.what] += outcome.vectors
                    failed[case.what] += outcome.failed
                    elapsed_s[case.what] += outcome.elapsed_s
                    latencies_ms[case.what] += outcome.latencies_ms
    return [
        Line(
            what,
            THIS.label,
            {
                RATE: vectors[what] / elapsed_s[what],
                P50: Percentiles.of(latencies_ms[what]).p50,
                FAILED: float(failed[what]),
            },
        )
        for what in vectors
    ]


if __name__ == "__main__":
    main()
