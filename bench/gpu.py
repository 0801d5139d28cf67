"""`make bench-gpu`: what one CUDA device does with the full-size model, alone and behind HTTP, and how exact it is.

Runs the CUDA tests first. Writes gpu.json, and gpu.md, a page to read, into bench/results. Ends with one line where
there is no CUDA device; `--dry-run` then goes through every line on the CPU with the small model of the repository, in
minutes, and marks each figure as none of a GPU.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from bench import gpu_engine, gpu_serving
from bench.figures import Check, Report, Row
from bench.gpu_card import card
from bench.gpu_engine import Setup, Shapes
from bench.gpu_serving import Length
from bench.machine import about
from bench.pod import end_with_pods
from bench.table import checklist, table
from bench.timing import new_process
from bench.workload import RESULTS, ROOT, full_size_model
from core.clip.cuda import why_no_device
from tools.testbed.process import TINY_MODEL

# By their files: what else is there needs packages that an image for GPUs has not.
CUDA_TEST_FILES = [*sorted(ROOT.glob("tests/core/clip/test_cuda*.py")), ROOT / "tests/pod/test_cuda.py"]
# A host that is slow or busy is no finding of theirs.
_CUDA_TESTS = [sys.executable, "-m", "pytest", "-q", "--timeout=900", *map(str, CUDA_TEST_FILES)]
_OUTCOME = re.compile(r"(\d+) (passed|failed|skipped|error)")
_DRY = "DRY RUN ON A CPU: these are no figures of a GPU"
NOT_A_GPU = "[no GPU]"


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds and rounds of each rate in process, the shapes that are gone through, and what is asked over HTTP."""

    rate_s: float
    rounds: int
    shapes: Shapes
    http: Length


FULL = Plan(
    1.0,
    5,
    Shapes(),
    Length(3.0, 5, 60.0, 10, (1, 4, 16, 64, 128, 256), (32, 64, 256), (1, 2, 4), (0, 50, 100), (0, 1, 4, 16)),
)
QUICK = Plan(0.3, 5, Shapes(), Length(1.0, 5, 4.0, 5, (1, 16, 64, 256), (64,), (1, 2), (0, 100), (0, 1, 16)))
DRY = Plan(0.02, 2, gpu_engine.small(), Length(0.2, 2, 0.5, 2, (1, 2), (2,), (1, 2), (0, 50), (0, 1)))


@dataclass(frozen=True, slots=True)
class CudaTests:
    """How many of the CUDA tests ended how; `line` is what they say of it themselves."""

    passed: int
    failed: int
    skipped: int
    line: str

    @classmethod
    def of(cls, output: str) -> "CudaTests":
        """From what pytest prints; its last line has the numbers."""
        line = output.strip().splitlines()[-1] if output.strip() else "no output"
        found = {what: int(number) for number, what in _OUTCOME.findall(line)}
        failed = found.get("failed", 0) + found.get("error", 0)
        return cls(found.get("passed", 0), failed, found.get("skipped", 0), line)

    def check(self) -> Check:
        """Tests that did not run at all have not passed."""
        return Check("the CUDA tests pass", self.line, self.passed > 0 and self.failed == 0)


def main() -> None:
    """Test, measure, print one table, write the two files."""
    options = _options()
    if not options.dry_run and not torch.cuda.is_available():
        sys.exit(f"bench-gpu needs a CUDA device: {why_no_device()}")
    end_with_pods()
    plan = DRY if options.dry_run else QUICK if options.quick else FULL
    tests = run_tests()
    about_it = about(settings_of(options, tests))
    rows: list[Row] = []
    try:
        for row in measured(model_of(options), plan, dry=options.dry_run):
            print(f"{row.section}: {row.what}: {row.value:.4g} {row.unit}", file=sys.stderr, flush=True)
            rows.append(row)
    finally:
        # A rented card may be gone before the end: what was measured by then is kept.
        checks = () if options.dry_run else (tests.check(), *gpu_engine.checks(rows))
        write(Report(about_it, tuple(rows), checks), options.results, "gpu-dry-run" if options.dry_run else "gpu")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="ten minutes; without it three quarters of an hour")
    parser.add_argument("--dry-run", action="store_true", help="every line of it on the CPU, with the small model")
    parser.add_argument("--model", help="a model directory or hub id; a full-size one with random weights if not given")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the two files go")
    return parser.parse_args()


def model_of(options: argparse.Namespace) -> str:
    if options.model:
        return str(options.model)
    return str(TINY_MODEL if options.dry_run else full_size_model())


def write(report: Report, folder: Path, name: str) -> None:
    """The JSON and the page, which is also printed."""
    report.write(folder / f"{name}.json")
    text = page(report)
    (folder / f"{name}.md").write_text(text)
    print(text)


def measured(model: str, plan: Plan, *, dry: bool) -> Iterator[Row]:
    """All rows: the device in a process of its own, then the pods. Those of a dry run say what they are."""
    device, dtype = ("cpu", "float32") if dry else ("cuda:0", "float16")
    for row in _measured(Setup(model, device, dtype, plan.rate_s, plan.rounds, plan.shapes), plan.http):
        yield replace(row, what=f"{NOT_A_GPU} {row.what}") if dry else row


def _measured(setup: Setup, length: Length) -> Iterator[Row]:
    with new_process() as process:
        yield from _in(process, setup)
    settings = {"CLIP_MODEL": setup.model, "CLIP_DEVICE": setup.device.partition(":")[0], "CLIP_DTYPE": "auto"}
    yield from gpu_serving.measure(gpu_serving.plans(length), settings, length)


def _in(process: ProcessPoolExecutor, setup: Setup) -> Sequence[Row]:
    return process.submit(_all_rows, setup).result()


def _all_rows(setup: Setup) -> Sequence[Row]:
    return tuple(gpu_engine.measure(setup))


def run_tests() -> CudaTests:
    """Run those that need a device, which are skipped without one; why one failed goes to standard error."""
    done = subprocess.run(_CUDA_TESTS, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - constants
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
    return CudaTests.of(done.stdout)


def settings_of(options: argparse.Namespace, tests: CudaTests) -> Mapping[str, Any]:
    """What the file says of the run beside the machine; None is what nobody could say."""
    return {
        "quick": options.quick,
        "dry_run": options.dry_run,
        "model": options.model or ("tiny-shapes" if options.dry_run else "ViT-B/32 with random weights"),
        "cuda_tests": {"passed": tests.passed, "failed": tests.failed, "skipped": tests.skipped},
        "card": dict(card()),
        "host": host(),
        "cuda": torch.version.cuda,
        "cudnn": None if options.dry_run else torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def host() -> Mapping[str, Any]:
    """All cores of the machine (how many may be used is said beside it), their clock, and its memory."""
    clock = psutil.cpu_freq()
    return {
        "cores": os.cpu_count(),
        "clock_mhz": round(clock.current) if clock else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
    }


def page(report: Report) -> str:
    """The run as Markdown; a dry run says so above and below its figures."""
    settings, machine = report.about["settings"], report.about["machine"]
    warning = f"**{_DRY}.**\n\n" if settings["dry_run"] else ""
    name = settings["card"]["name"] or f"No GPU: {machine['processor']}"
    tests = settings["cuda_tests"]
    facts = "\n".join(
        f"- {what}: {'unknown' if value is None else value}"
        for what, value in {
            **settings["card"],
            "CUDA": settings["cuda"],
            "cuDNN": settings["cudnn"],
            **report.about["versions"],
            "processor": f"{machine['processor']}, {machine['cores']} cores of {settings['host']['cores']}",
            "clock of the processor, MHz": settings["host"]["clock_mhz"],
            "memory of the host, GiB": settings["host"]["memory_gib"],
            "model": settings["model"],
            "CUDA tests": f"{tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} skipped",
            "commit": report.about["commit"],
        }.items()
    )
    checks = f"```\n{checklist(report.checks)}\n```\n" if report.checks else ""
    ending = f"\n{warning.strip()}\n" if warning else ""
    return f"# {name}\n\n{warning}{facts}\n\n```\n{table(report.rows)}\n```\n\n{checks}{ending}"


if __name__ == "__main__":
    main()
