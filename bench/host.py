"""What a pod costs its host when the model costs nothing: `make bench-host`, `python -m bench.host --against DIR`.

It decides how fast a GPU can be fed. Real gunicorn, HTTP, downloads and decodes over an engine that answers at once;
the pod has one core to itself, the clients and the image server have the others. Costs are processor milliseconds per
item: they mean something beside other work too, where rates do not. Writes bench/results/host.json.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from bench.figures import Check
from bench.images import ImageServer, image_server
from bench.instant import decode_ms, instant_pod, thread_names
from bench.lines import Findings, Line, at_most, find, lines_table, ratio_of, unless_failed, with_ratios
from bench.load import Load, drive
from bench.machine import about, commit
from bench.pod import end_with_pods, worker_of
from bench.serving import Case, image_batches, named_files, single_images, texts
from bench.table import checklist
from bench.trees import OTHER, THIS, Tree, add_against, in_turn, trees
from bench.usage import STAGES, Spent, Usage, spent
from bench.workload import RESULTS, THUMBNAIL, pictures
from tools.testbed.process import PodProcess
from tools.testbed.trace_receiver import trace_receiver

_THUMBNAILS, _LARGE = image_batches(THUMBNAIL, 4), image_batches("1080p", 4)
_SINGLES, _TEXTS = single_images(THUMBNAIL, 8), texts(8)
# Items of one round: some seconds of one core each.
_CASES: Mapping[Case, int] = {_THUMBNAILS: 1600, _LARGE: 640, _SINGLES: 1600, _TEXTS: 3200}
_ROUNDS = 3
_QUICK_ROUNDS, _QUICK_SHARE = 2, 0.5
_WARM_UP_SHARE = 0.2
_NO_END_S = 3600.0
# More than any round asks for, so that no two rounds ask for the same.
_NUMBERS_PER_ROUND = 20_000

# The same checkout, which tells a trace of every request.
TRACED = "traced"

DECODE = "decode of a thumbnail, alone"
RATE, MAIN, PROCESSES, FAILED = "items/s", "main ms", "processes ms", "failed"
# Milliseconds of the main process per item.
MAIN_GOALS_MS: Mapping[Case, float] = {_THUMBNAILS: 0.2, _SINGLES: 0.9, _TEXTS: 0.8}
DECODE_GOAL = 0.8


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one case and tree, one round or several."""

    items: int
    failed: int
    elapsed_s: float
    spent: Spent

    def __add__(self, other: "Measured") -> "Measured":
        return Measured(
            self.items + other.items,
            self.failed + other.failed,
            self.elapsed_s + other.elapsed_s,
            self.spent + other.spent,
        )

    def figures(self) -> dict[str, float | None]:
        """Per item that was answered."""
        per_item_ms = 1000 / max(1, self.items)
        stages = {stage: used_s * per_item_ms for stage, used_s in self.spent.stages_s.items()}
        return {
            RATE: self.items / self.elapsed_s,
            MAIN: self.spent.main_s * per_item_ms,
            PROCESSES: self.spent.others_s * per_item_ms,
            **{stage: stages[stage] for stage in STAGES},
            FAILED: float(self.failed),
        }


def main() -> None:
    options = _options()
    end_with_pods()
    compared = trees(options.against)
    rounds, share = (_QUICK_ROUNDS, _QUICK_SHARE) if options.quick else (_ROUNDS, 1.0)
    commits = {tree.label: commit(tree.folder) for tree in compared}
    before = about({"quick": options.quick, "rounds": rounds, "commits": commits})
    pod_core = leave_a_core()
    with _files() as files:
        decodes = _decodes(compared, sorted(files.glob(f"{THUMBNAIL.replace(' ', '')}-*")), rounds, pod_core)
        jpegs = {path.name: path.read_bytes() for path in files.iterdir()}
    with _traced(told=options.traces) as traced:
        measured = _measure((*compared, *traced), jpegs, rounds, share, pod_core)
    lines = [Line(case.what, tree.label, total.figures()) for (case, tree), total in measured.items()]
    lines = with_ratios([*lines, *decodes])
    findings = Findings(before, tuple(lines), checks(lines))
    print(f"{before['machine']['processor']}, commits {commits}; processor milliseconds per item, {rounds} rounds\n")
    print(lines_table(lines), "\n")
    print(checklist(findings.checks))
    findings.write(RESULTS / "host.json")


def checks(lines: Sequence[Line]) -> tuple[Check, ...]:
    """The main process's cost per item, and a decode's beside the other tree's."""
    mains = [_main_check(lines, case.what, most_ms) for case, most_ms in MAIN_GOALS_MS.items()]
    ratio = ratio_of(find(lines, DECODE, MAIN), find(lines, DECODE, MAIN, OTHER))
    return (*mains, at_most(f"{DECODE}: <= {DECODE_GOAL} of the other tree's", ratio, DECODE_GOAL, ""))


def _main_check(lines: Sequence[Line], what: str, most_ms: float) -> Check:
    check = at_most(f"{what}: main process <= {most_ms} ms", find(lines, what, MAIN), most_ms, " ms")
    return unless_failed(check, find(lines, what, FAILED))


def leave_a_core() -> int:
    """Keep off one core, as will all that is started from here; returns it. Exits where there is only one."""
    pod_core, *rest = sorted(os.sched_getaffinity(0))
    if not rest:
        sys.exit("two cores are needed: one for the pod, one for clients and image server")
    os.sched_setaffinity(0, rest)
    return pod_core


@contextmanager
def _files() -> Iterator[Path]:
    """A folder of the pictures that are served."""
    with tempfile.TemporaryDirectory(prefix="bench-host-") as folder:
        for name, data in named_files({size: pictures(size) for size in (THUMBNAIL, "1080p")}).items():
            Path(folder, name).write_bytes(data)
        yield Path(folder)


@contextmanager
def _traced(*, told: bool) -> Iterator[Sequence[Tree]]:
    """This checkout once more, whose traces are received as long as the block lasts; none where they are not told."""
    if not told:
        yield ()
        return
    with trace_receiver() as receiver:
        yield (replace(THIS, label=TRACED, variables=(("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url),)),)


def _decodes(compared: Sequence[Tree], files: Sequence[Path], rounds: int, core: int) -> list[Line]:
    taken_ms = defaultdict[Tree, list[float]](list)
    for tree in in_turn(compared, rounds):
        taken_ms[tree].append(decode_ms(tree, files, core=core))
    return [Line(DECODE, tree.label, {MAIN: sum(values) / len(values)}) for tree, values in taken_ms.items()]


def _measure(
    compared: Sequence[Tree], files: Mapping[str, bytes], rounds: int, share: float, core: int
) -> dict[tuple[Case, Tree], Measured]:
    """All rounds together, of each case and tree. The pods run side by side; the one that is not asked is idle."""
    totals = dict[tuple[Case, Tree], Measured]()
    with ExitStack() as stack:
        images = stack.enter_context(image_server(files))
        pods = {tree: stack.enter_context(instant_pod(tree, cores=[core])) for tree in compared}
        numbers = count(1, _NUMBERS_PER_ROUND)
        for case, items in _CASES.items():
            for tree in compared:
                _ask(pods[tree], case, images, int(items * share * _WARM_UP_SHARE), next(numbers))
            for tree in in_turn(compared, rounds):
                one = _ask(pods[tree], case, images, int(items * share), next(numbers))
                totals[case, tree] = totals[case, tree] + one if (case, tree) in totals else one
                print(".", end="", flush=True)
    print()
    return totals


def _ask(pod: PodProcess, case: Case, images: ImageServer, items: int, first_number: int) -> Measured:
    requests = max(case.clients, items // case.batch)
    load = Load(pod.base_url, case.work(images), case.clients, _NO_END_S, first_number, most_requests=requests)
    worker = worker_of(pod)
    before = Usage.so_far(worker)
    outcome = drive(load)
    after = Usage.so_far(worker)
    used = spent(before, after, thread_names(pod.base_url), main_thread=worker.pid)
    return Measured(outcome.vectors, outcome.failed, outcome.elapsed_s, used)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a third of the requests, less than a minute per tree")
    parser.add_argument("--traces", action="store_true", help="also a pod that tells traces, one of every request")
    add_against(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
