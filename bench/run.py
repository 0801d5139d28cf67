"""`make bench`: the service beside the naive way and beside what its engine alone can do, in one run and one table.

Writes bench/results/bench.json and bench.png. Goals that are not met are listed, and are no failure of the run.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import against, goals, inprocess, serving, startup
from bench.compare import DECODE, ENGINE, HTTP, NAIVE, START, compared
from bench.figures import Report, Row
from bench.lines import Findings, lines_table
from bench.machine import about, commit
from bench.pod import end_with_pods
from bench.table import checklist, table
from bench.timing import Arguments, isolated
from bench.trees import Tree, add_against, trees
from bench.workload import RESULTS, SIZES, full_size_model, pictures
from core.settings import ServiceSettings
from tools.testbed.process import MODEL_CACHE

SECTIONS = (NAIVE, ENGINE, DECODE, HTTP, START)

# More than this beside the service is somebody else's work: the system's own housekeeping is far below.
_QUIET_CORES = 0.2

Jpegs = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a row of each kind takes, and which rows there are."""

    sections: frozenset[str]
    sizes: tuple[str, ...]
    cases: tuple[serving.Case, ...]
    in_process_s: float
    served_s: float
    first_start: bool


def full_plan(sections: frozenset[str], seconds: float) -> Plan:
    """Everything: about eleven minutes at 10 s per row."""
    sizes = tuple(SIZES)
    cases = [serving.single_images(size, clients) for size in sizes for clients in (1, 4, 8, 16, 64)]
    cases += [serving.image_batches(size, clients) for size in sizes for clients in (1, 4, 16, 64)]
    cases += [serving.texts(clients) for clients in (1, 4, 16, 64)]
    return Plan(sections, sizes, tuple(cases), seconds / 2, seconds, first_start=True)


def quick_plan(sections: frozenset[str], seconds: float) -> Plan:
    """What the goals need: about 90 s at 5 s per row."""
    cases = (
        serving.single_images("1080p", 1),
        serving.single_images("1080p", 8),
        serving.image_batches("1080p", 4),
        serving.texts(16),
    )
    return Plan(sections, ("1080p",), cases, seconds / 2, seconds, first_start=False)


def main() -> None:
    options = _options()
    sections = frozenset(options.only or SECTIONS)
    seconds = options.seconds or (5.0 if options.quick else 10.0)
    plan = quick_plan(sections, seconds) if options.quick else full_plan(sections, seconds)
    if options.against is not None:
        run_against(trees(options.against), plan)
        return
    settings = {"seconds": seconds, "quick": options.quick, "sections": sorted(sections), **service_settings_shown()}
    before = about(settings)
    rows = []
    for row in measure(plan):
        rows.append(row)
        print(".", end="", flush=True)
    print()
    report = Report(before, compared(rows))
    report = replace(report, checks=goals.checks(report))
    show(report)
    report.write(RESULTS / "bench.json")
    if HTTP in sections:
        from bench.chart import draw  # matplotlib

        draw(report, RESULTS / "bench.png")


def run_against(compared: Sequence[Tree], plan: Plan) -> None:
    """Only what is served, for each tree in alternation. Writes bench/results/against.json."""
    end_with_pods()
    commits = {tree.label: commit(tree.folder) for tree in compared}
    before = about({"seconds": plan.served_s, "rounds": against.ROUNDS, "commits": commits})
    lines = against.measure(compared, plan.cases, {size: pictures(size) for size in plan.sizes}, plan.served_s)
    findings = Findings(before, tuple(lines), against.checks(lines))
    print(lines_table(lines), "\n")
    print(checklist(findings.checks))
    findings.write(RESULTS / "against.json")


def measure(plan: Plan) -> Iterator[Row]:
    """Yield rows as they come. The naive way and the engine run in processes of their own, one after the other."""
    settings = service_settings()
    jpegs: Jpegs = {size: pictures(size) for size in plan.sizes} if plan.sections - {START, ENGINE} else {}
    if NAIVE in plan.sections:
        yield from _alone(inprocess.naive, settings.clip_model, jpegs, plan.in_process_s)
    if ENGINE in plan.sections:
        yield from _alone(inprocess.engine, settings, plan.in_process_s)
    if DECODE in plan.sections:
        yield from _alone(inprocess.decode, jpegs, settings, plan.in_process_s)
    if HTTP in plan.sections:
        yield from serving.measure(plan.cases, jpegs, plan.served_s)
    if START in plan.sections:
        yield from startup.measure(first=plan.first_start)


def _alone(section: Callable[Arguments, list[Row]], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Iterator[Row]:
    rows, other_cores = isolated(section, *args, **kwargs)
    return (replace(row, other_cores=round(other_cores, 3)) for row in rows)


def service_settings() -> ServiceSettings:
    """Those of the pod that is measured, as far as the engine sees them."""
    return ServiceSettings(clip_model=str(full_size_model()), clip_cache_dir=MODEL_CACHE, cache_bytes=0)


def service_settings_shown() -> dict[str, str]:
    settings = service_settings()
    return {"model": settings.clip_model.rsplit("/", 1)[-1], "CLIP_ENGINE": "auto", "CLIP_DTYPE": "auto"}


def show(report: Report) -> None:
    """Print the machine, the table and the goals."""
    machine, versions = report.about["machine"], report.about["versions"]
    print(f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['flags'])}")
    print(", ".join(f"{name} {number}" for name, number in versions.items() if number))
    print(f"commit {report.about['commit']}, load before the run {machine['load_1m']}\n")
    print(table(report.rows), "\n")
    print(checklist(report.checks))
    others = max((row.other_cores or 0.0 for row in report.rows), default=0.0)
    if others > _QUIET_CORES:
        print(f"\nThe machine was not quiet: other processes used up to {others:.1f} cores. Only a quiet run counts.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="only what the goals need, about 90 seconds")
    parser.add_argument("--seconds", type=float, help="length of a row over HTTP (10, or 5 with --quick)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), help=f"sections, comma-separated, of {','.join(SECTIONS)}"
    )
    add_against(parser)
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(SECTIONS)
    if unknown:
        parser.error(f"--only: no section {sorted(unknown)[0]}; there are {', '.join(SECTIONS)}")
    return options


if __name__ == "__main__":
    main()
