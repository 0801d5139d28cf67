"""`make bench-gpu`: what one CUDA device does with the full-size model, alone and behind HTTP, and how exact it is.

Runs the CUDA tests first. Writes bench/results/gpu.json, and gpu.md, a page to read. Ends with one line where there
is no CUDA device; `--dry-run` then goes through every line on the CPU, and says on the page that it did.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from bench import gpu_engine, gpu_serving
from bench.figures import Check, Report, Row
from bench.gpu_card import card
from bench.gpu_engine import Setup, Shapes
from bench.machine import about
from bench.pod import end_with_pods
from bench.table import checklist, table
from bench.timing import new_process
from bench.workload import RESULTS, ROOT, full_size_model
from core.clip.cuda import why_no_device

_CUDA_TESTS = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "tests/core/clip"]
_DRY = "DRY RUN ON A CPU: these are no figures of a GPU"


@dataclass(frozen=True, slots=True)
class Length:
    """How much is measured: seconds of each rate, rounds of it, seconds of each load and of the steady one, and which
    numbers of clients, device batches and processes."""

    rate_s: float
    rounds: int
    load_s: float
    steady_s: float
    clients: Sequence[int]
    device_batches: Sequence[int]
    workers: Sequence[int]


FULL = Length(1.0, 5, 10.0, 600.0, (1, 4, 16, 64, 128, 256), (64, 128, 256), (2, 4))
QUICK = Length(0.3, 5, 3.0, 20.0, (1, 16, 64, 256), (64, 256), (2, 4))
DRY = Length(0.05, 2, 1.0, 1.0, (1, 2), (2,), (2,))


def main() -> None:
    """Test, measure, print one table, write the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="three minutes; without it half an hour")
    parser.add_argument("--dry-run", action="store_true", help="every line of it on the CPU")
    parser.add_argument("--model", help="a model directory or hub id; a full-size one with random weights if not given")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        sys.exit(f"bench-gpu needs a CUDA device: {why_no_device()}")
    end_with_pods()
    length = DRY if options.dry_run else QUICK if options.quick else FULL
    about_it, tests = about(settings_of(options)), run_tests()
    rows: list[Row] = []
    try:
        for row in measured(options.model or str(full_size_model()), length, dry=options.dry_run):
            print(f"{row.section}: {row.what}: {row.value:.4g} {row.unit}", file=sys.stderr, flush=True)
            rows.append(row)
    finally:
        # A rented card may be gone before the end: what was measured by then is kept.
        checks = () if options.dry_run else gpu_engine.checks(rows)
        write(Report(about_it, tuple(rows), (tests, *checks)), "gpu-dry-run" if options.dry_run else "gpu")


def write(report: Report, name: str) -> None:
    """The JSON and the page, which is also printed."""
    report.write(RESULTS / f"{name}.json")
    text = page(report)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def measured(model: str, length: Length, *, dry: bool) -> Iterator[Row]:
    """All rows: the device in a process of its own, then the pods."""
    shapes = gpu_engine.small() if dry else Shapes()
    device, dtype = ("cpu", "float32") if dry else ("cuda:0", "float16")
    setup = Setup(model, device, dtype, length.rate_s, length.rounds, shapes)
    with new_process() as process:
        yield from _in(process, setup)
    planned = gpu_serving.plans(length.clients, length.device_batches, length.workers)
    settings = {"CLIP_MODEL": model, "CLIP_DEVICE": device.partition(":")[0], "CLIP_DTYPE": "auto"}
    yield from gpu_serving.measure(planned, settings, seconds=length.load_s, steady_s=length.steady_s)


def _in(process: ProcessPoolExecutor, setup: Setup) -> Sequence[Row]:
    return process.submit(_all_rows, setup).result()


def _all_rows(setup: Setup) -> Sequence[Row]:
    return tuple(gpu_engine.measure(setup))


def run_tests() -> Check:
    """The CUDA tests, by their own summary line; why one failed goes to standard error."""
    done = subprocess.run(_CUDA_TESTS, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - constants
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    return Check("the CUDA tests pass", done.stdout.splitlines()[-1], done.returncode == 0)


def settings_of(options: argparse.Namespace) -> Mapping[str, Any]:
    """What the file says of the run beside the machine."""
    return {
        "quick": options.quick,
        "dry_run": options.dry_run,
        "model": options.model or "ViT-B/32 with random weights",
        "card": dict(card()),
        "cuda": torch.version.cuda,
        "cudnn": None if options.dry_run else torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def page(report: Report) -> str:
    """The run as Markdown; a dry run says so above and below its figures."""
    settings, machine = report.about["settings"], report.about["machine"]
    warning = f"**{_DRY}.**\n\n" if settings["dry_run"] else ""
    name = settings["card"].get("name", machine["processor"])
    facts = "\n".join(
        f"- {what}: {value}"
        for what, value in {
            **settings["card"],
            "CUDA": settings["cuda"],
            "cuDNN": settings["cudnn"],
            **report.about["versions"],
            "processor": f"{machine['processor']}, {machine['cores']} cores",
            "model": settings["model"],
            "commit": report.about["commit"],
        }.items()
    )
    return (
        f"# {name}\n\n{warning}{facts}\n\n```\n{table(report.rows)}\n```\n\n"
        f"```\n{checklist(report.checks)}\n```\n{warning and chr(10) + warning.strip() + chr(10)}"
    )


if __name__ == "__main__":
    main()
