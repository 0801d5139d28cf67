"""The served rows of `bench.run` for two checkouts in alternation: `python -m bench.run --quick --against DIR`.

Says whether a change has made any row slower. Each row is measured several times for each of them, one right after
the other, so that whatever else the machine does meets both. Beside other work a twentieth is still noise: hold a
checkout against itself to see how much.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median

from bench.figures import Check, Row
from bench.images import image_server
from bench.lines import RATIO, Line, at_least, find, unless_failed, with_ratios
from bench.pod import full_size_pod
from bench.serving import Bench, Case, named_files
from bench.trees import Tree, in_turn

ROUNDS = 4
RATE, P50, P99, FAILED = "per second", "p50 ms", "p99 ms", "failed"
LEAST_RATIO = 0.95


def measure(
    compared: Sequence[Tree], cases: Sequence[Case], jpegs: Mapping[str, Sequence[bytes]], seconds: float
) -> list[Line]:
    """Lines of each tree and their ratios. The pods run side by side; the one that is not asked is idle."""
    rows = defaultdict[tuple[Case, Tree], list[Row]](list)
    with ExitStack() as stack:
        images = stack.enter_context(image_server(named_files(jpegs)))
        pods = {tree: stack.enter_context(full_size_pod(tree=tree)) for tree in compared}
        benches = {tree: stack.enter_context(Bench.over(pod, images)) for tree, pod in pods.items()}
        for bench in benches.values():
            bench.warm_up(cases, seconds)
        for case in cases:
            for tree in in_turn(compared, ROUNDS):
                rows[case, tree].append(benches[tree].run(case, seconds))
                print(".", end="", flush=True)
    print()
    return with_ratios([Line(name_of(case), tree.label, figures(of_one)) for (case, tree), of_one in rows.items()])


def name_of(case: Case) -> str:
    """The name of a row."""
    return f"{case.what}, {case.clients} clients"


def figures(rows: Sequence[Row]) -> dict[str, float | None]:
    """The medians over the rounds, since a disturbance meets one or two of them, and all failures together."""
    served = [row.served for row in rows if row.served]
    return {
        RATE: median(row.value for row in rows),
        P50: median(seen.latency_ms.p50 for seen in served),
        P99: median(seen.latency_ms.p99 for seen in served),
        FAILED: float(sum(seen.failed for seen in served)),
    }


def checks(lines: Sequence[Line]) -> tuple[Check, ...]:
    """One per row: its rate beside the other tree's."""
    return tuple(_check(lines, what) for what in dict.fromkeys(line.what for line in lines))


def _check(lines: Sequence[Line], what: str) -> Check:
    ratio = find(lines, what, RATE, RATIO)
    return unless_failed(at_least(f"{what}: >= {LEAST_RATIO} of before", ratio, LEAST_RATIO), find(lines, what, FAILED))
