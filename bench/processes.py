"""What a second worker adds where the model costs nothing: `python -m bench.processes`.

The pod of `bench.host`, an engine that answers at once, with one worker and with two: images and texts a second that
are asked for one by one, which is where the thread that holds the connections ends first. Each pod has the cores that
it is given, and clients and image server the last one of the machine: where that is one of a pod's, both have less.
The pods are asked in turn, so that a busy moment meets all. Writes bench/results/processes.json.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

from bench.figures import Check
from bench.images import ImageServer, image_server
from bench.instant import instant_pod
from bench.lines import Findings, Line, at_least, find, lines_table, ratio_of, unless_failed
from bench.load import Load, drive
from bench.machine import about
from bench.pod import end_with_pods, wait_for_workers
from bench.serving import Case, named_files, single_images, texts
from bench.table import checklist
from bench.trees import THIS
from bench.workload import RESULTS, THUMBNAIL, pictures
from tools.testbed.process import PodProcess

_CASES: Mapping[Case, int] = {single_images(THUMBNAIL, 16): 1200, texts(16): 2400}
_ROUNDS = 4
_WARM_UP_SHARE = 0.2
_NO_END_S = 3600.0
_NUMBERS_PER_ROUND = 20_000

RATE, FAILED = "items/s", "failed"
# A second thread of connections, less what clients take of its core.
GOAL = 1.2


@dataclass(frozen=True, slots=True)
class Plan:
    """A pod of so many workers on these cores."""

    workers: int
    cores: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.workers} on {len(self.cores)}"


@dataclass(slots=True)
class Answered:
    """Of one case and plan, all rounds together."""

    items: int = 0
    failed: int = 0
    elapsed_s: float = 0.0

    def line(self, case: Case, plan: Plan) -> Line:
        return Line(case.what, plan.label, {RATE: self.items / self.elapsed_s, FAILED: float(self.failed)})


def main() -> None:
    end_with_pods()
    planned = plans(sorted(os.sched_getaffinity(0)))
    before = about({"rounds": _ROUNDS})
    os.sched_setaffinity(0, planned[-1].cores[-1:])
    lines = [answered.line(case, plan) for (case, plan), answered in _measure(planned).items()]
    findings = Findings(before, tuple(lines), tuple(checks(lines, planned)))
    print(f"{before['machine']['processor']}, {before['machine']['cores']} cores; workers on cores, {_ROUNDS} rounds\n")
    print(lines_table(lines), "\n")
    print(checklist(findings.checks))
    findings.write(RESULTS / "processes.json")


def plans(cores: Sequence[int]) -> list[Plan]:
    """One worker on all cores but the last, one on all, two on all. Raises `SystemExit` where there is only one."""
    if len(cores) < 2:
        raise SystemExit("two cores are needed: the second worker's own")
    return [Plan(1, tuple(cores[:-1])), Plan(1, tuple(cores)), Plan(2, tuple(cores))]


def checks(lines: Sequence[Line], planned: Sequence[Plan]) -> Iterator[Check]:
    """Two workers beside one that has a core less, and beside one that has the same."""
    two = planned[-1].label
    for case in _CASES:
        for one in planned[:-1]:
            ratio = ratio_of(find(lines, case.what, RATE, two), find(lines, case.what, RATE, one.label))
            check = at_least(f"{case.what}: {two} >= {GOAL} times {one.label}", ratio, GOAL)
            yield unless_failed(check, find(lines, case.what, FAILED, two))


def _measure(planned: Sequence[Plan]) -> Mapping[tuple[Case, Plan], Answered]:
    totals = defaultdict[tuple[Case, Plan], Answered](Answered)
    with ExitStack() as stack:
        images = stack.enter_context(image_server(named_files({THUMBNAIL: pictures(THUMBNAIL)})))
        pods = {plan: stack.enter_context(instant_pod(THIS, _settings(plan), cores=plan.cores)) for plan in planned}
        numbers = count(1, _NUMBERS_PER_ROUND)
        for plan, pod in pods.items():
            wait_for_workers(pod, plan.workers)
        for case, items in _CASES.items():
            for plan in planned:
                _ask(pods[plan], case, images, int(items * _WARM_UP_SHARE), next(numbers), Answered())
            for number in range(_ROUNDS):
                for plan in planned if number % 2 == 0 else reversed(planned):
                    _ask(pods[plan], case, images, items, next(numbers), totals[case, plan])
                    print(".", end="", flush=True)
    print()
    return totals


def _settings(plan: Plan) -> dict[str, str]:
    return {"WORKERS": str(plan.workers)}


def _ask(pod: PodProcess, case: Case, images: ImageServer, items: int, first_number: int, total: Answered) -> None:
    load = Load(pod.base_url, case.work(images), case.clients, _NO_END_S, first_number, most_requests=items)
    outcome = drive(load)
    total.items += outcome.vectors
    total.failed += outcome.failed
    total.elapsed_s += outcome.elapsed_s


if __name__ == "__main__":
    main()
