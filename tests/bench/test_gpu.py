"""What `make bench-gpu` says where there is no GPU, and what it makes of what it sees."""

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.figures import CardUse, Percentiles, Report, Row, Served
from bench.gpu import CUDA_TEST_FILES, DRY, FULL, NOT_A_GPU, QUICK, CudaTests, Plan, host, measured, page, write
from bench.gpu_card import card, mean_use, watched
from bench.gpu_serving import median_row, plans
from bench.timing import Rates
from tests.source import parsed
from tools.testbed.process import ROOT, TINY_MODEL

# As `nvidia-smi` does: of one field that it does not know it says so, and fails.
NVIDIA_SMI = """#!/bin/sh
case "$1" in
    --query-gpu=name) echo "NVIDIA X" ;;
    --query-gpu=power.limit) echo "[N/A]" ;;
    --query-gpu=clocks.max.sm) echo "1980 MHz" ;;
    *) echo "Field is not a valid field to query." >&2; exit 2 ;;
esac
"""
SERVED = Served(1, 0, Percentiles.of([1.0]), Percentiles.of([1.0]), 1.0, 1.0, 1.0)


def test_without_a_device_it_ends_with_one_line() -> None:
    """A failure, that says what is in the way, and no table of zeros."""
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "bench.gpu"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "" == done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith("bench-gpu needs a CUDA device: ")


def test_use_is_the_mean_of_whole_lines() -> None:
    """A line that was cut off when the measurement ended, and what a card does not report, are left out."""
    output = "10, 100.5, 1500, 1900\n30, 120.5, 1600, 1800\n[N/A], 1.0, 1, 1\n50, 1"

    assert CardUse(20.0, 110.5, 1600.0, 1850.0) == mean_use(output)
    assert mean_use("[N/A], [N/A], 5, 5\n") is None


def test_no_card_no_use() -> None:
    """Where there is no `nvidia-smi` nothing is claimed, and the measurement goes on."""
    with watched(command="no-such-command-here") as watch:
        pass

    assert watch.use is None
    assert {None} == set(card(command="no-such-command-here").values())


def test_fact_that_a_card_does_not_tell_is_none(tmp_path: Path) -> None:
    """And takes no other one with it."""
    command = tmp_path / "nvidia-smi"
    command.write_text(NVIDIA_SMI)
    command.chmod(0o755)

    facts = card(command=str(command))

    assert {"name": "NVIDIA X", "clocks.max.sm": "1980 MHz"} == {k: v for k, v in facts.items() if v is not None}
    assert {"power.limit", "pcie.link.gen.current"} < facts.keys()


def test_host_says_how_many_cores_it_has() -> None:
    """All of them: how many may be used stands beside it."""
    assert host()["cores"] >= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("plan", [pytest.param(FULL, id="full"), pytest.param(QUICK, id="quick")])
def test_each_figure_is_the_median_of_at_least_five(plan: Plan) -> None:
    """Alone and over HTTP; in ten steady minutes a round is one of them."""
    assert min(plan.rounds, plan.http.rounds, plan.http.steady_rounds) >= 5


def test_a_whole_run_has_ten_steady_minutes() -> None:
    """A card that gets too hot shows it after some."""
    assert 600 == FULL.http.steady_s * FULL.http.steady_rounds


def test_each_pod_is_asked_for_what_is_compared() -> None:
    """The load of every pod with another device batch is asked of the one as shipped, and all others come in rows."""
    length = replace(FULL.http, clients=(1, 64), device_batches=(64,), workers=(1, 2), round_trips_ms=(0, 50))
    shipped, near, far, batch, one, two = plans(length)

    assert ({}, {}, {}, {"MAX_DEVICE_BATCH": "64"}) == tuple(each.settings for each in (shipped, near, far, batch))
    assert (None, 0, 50) == tuple(each.round_trip_ms for each in (shipped, near, far))
    assert ("1", "2") == (one.settings["WORKERS"], two.settings["WORKERS"])
    assert set(batch.cases) <= set(shipped.cases)
    assert near.cases == far.cases
    assert one.cases == two.cases
    assert {(batch, clients) for batch in (1, 16) for clients in (1, 64)} == {
        (case.batch, case.clients) for case in one.cases if case.kind == "images"
    }


def test_room_is_for_every_client() -> None:
    """What is refused is not measured: every client's batch fits into one process."""
    *_, last = plans(FULL.http)

    assert (256, 256 * 16) == (int(last.settings["MAX_CONCURRENT_REQUESTS"]), int(last.settings["MAX_QUEUED_ITEMS"]))


def rows_of(values: Sequence[float], failed: Sequence[int]) -> list[Row]:
    both = zip(values, failed, strict=True)
    return [Row("http", "x", value, "images/s", served=replace(SERVED, failed=number)) for value, number in both]


@pytest.mark.parametrize(
    ("values", "median"),
    [
        pytest.param([5.0, 1.0, 3.0, 2.0, 4.0], 3.0, id="odd"),
        pytest.param([4.0, 1.0, 3.0, 2.0], 2.0, id="even"),
        pytest.param([7.0], 7.0, id="one"),
    ],
)
def test_median_row_is_one_that_was_measured(values: list[float], median: float) -> None:
    """Its latencies are those of its rate; the range and the failures are of all."""
    row = median_row(rows_of(values, range(len(values))))

    assert (median, min(values), max(values)) == (row.value, row.low, row.high)
    assert row.served is not None
    assert sum(range(len(values))) == row.served.failed


@pytest.mark.parametrize(
    ("output", "expected", "met"),
    [
        pytest.param("..\n111 passed, 1 skipped, 275 deselected in 60.3s\n", (111, 0, 1), True, id="passed"),
        pytest.param("F\n1 failed, 110 passed, 2 errors in 60.3s\n", (110, 3, 0), False, id="failed"),
        pytest.param("60 skipped in 1.0s\n", (0, 0, 60), False, id="all skipped"),
        pytest.param("", (0, 0, 0), False, id="nothing"),
    ],
)
def test_outcome_of_the_cuda_tests(output: str, expected: tuple[int, int, int], met: bool) -> None:
    """By pytest's own last line; tests that did not run have not passed."""
    tests = CudaTests.of(output)

    assert expected == (tests.passed, tests.failed, tests.skipped)
    assert met == tests.check().met


def about(*, dry: bool) -> dict[str, object]:
    return {
        "settings": {
            "dry_run": dry,
            "card": {"name": None if dry else "NVIDIA X", "power.limit": None},
            "host": {"cores": 4, "clock_mhz": None, "memory_gib": 8},
            "cuda_tests": {"passed": 1, "failed": 0, "skipped": 2},
            "cuda": None,
            "cudnn": None,
            "model": "m",
        },
        "machine": {"processor": "CPU", "cores": 2},
        "versions": {"torch": "2"},
        "commit": "abc",
    }


@pytest.mark.parametrize("dry", [pytest.param(True, id="dry"), pytest.param(False, id="real")])
def test_page_says_what_a_dry_run_is(dry: bool) -> None:
    """Twice, above and below figures that are none of a GPU; a real run has the card for its title."""
    row = Rates((3.0, 1.0, 2.0)).row("engine", "images, batch 1", "images/s")

    text = page(Report(about(dry=dry), (row,)))

    assert (2 if dry else 0) == text.count("DRY RUN ON A CPU")
    assert text.startswith("# No GPU: CPU" if dry else "# NVIDIA X")
    assert "2.00 images/s" in text
    assert "1.00-3.00" in text
    assert "- CUDA tests: 1 passed, 0 failed, 2 skipped" in text
    assert "- power.limit: unknown" in text


@pytest.mark.timeout(900)
def test_dry_run_marks_every_figure(tmp_path: Path) -> None:
    """Every line of it runs, on real pods; what it writes, JSON and page, has no line that could be read as a GPU's."""
    plan = replace(
        DRY,
        http=replace(DRY.http, seconds=0.05, rounds=1, steady_s=0.05, clients=(1,), workers=(2,), round_trips_ms=(50,)),
    )

    rows = tuple(measured(str(TINY_MODEL), plan, dry=True))
    write(Report(about(dry=True), rows), tmp_path, "gpu-dry-run")

    assert {"tower alone", "engine", "both streams", "in process", "http"} == {row.section for row in rows}
    assert all(row.what.startswith(NOT_A_GPU) for row in Report.read(tmp_path / "gpu-dry-run.json").rows)
    table = (tmp_path / "gpu-dry-run.md").read_text().split("```")[1].strip().splitlines()
    assert len(rows) + 1 == len(table)
    assert all(NOT_A_GPU in line for line in table[1:])
    assert [0] == sorted({row.served.failed for row in rows if row.served})
    assert {"as shipped", "50 ms away", "MAX_DEVICE_BATCH=2", "WORKERS=2, room for 1"} <= {
        row.what.removeprefix(f"{NOT_A_GPU} ").partition(":")[0] for row in rows if row.section == "http"
    }


def installed_by(*extras: str) -> set[str]:
    """The distributions of these extras, with all that they need."""
    script = [sys.executable, "deploy/requirements.py", ",".join(extras)]
    found, todo = (
        set[str](),
        subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(),
    )
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        with suppress(PackageNotFoundError):
            todo += [line for line in requires(name) or [] if _is_for(requirement, Requirement(line))]
    return found


def _is_for(requirement: Requirement, needed: Requirement) -> bool:
    extras = requirement.extras or {""}
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)


def imported_by(path: Path, seen: dict[Path, set[str]]) -> None:
    """Add to `seen` what a file of this repository imports when it is imported, and all files behind it."""
    seen[path] = set()
    for statement in parsed(path).body:
        for name in _names(statement, ".".join(path.relative_to(ROOT).parent.parts)):
            seen[path].add(name.partition(".")[0])
            for file in (ROOT / f"{name.replace('.', '/')}{end}" for end in (".py", "/__init__.py")):
                if file.is_file() and file not in seen:
                    imported_by(file, seen)


def _names(statement: ast.stmt, package: str) -> list[str]:
    """The modules, and what may be modules, of one statement at the top of a file in `package`."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if not isinstance(statement, ast.ImportFrom):
        return []
    module = ".".join(part for part in (package if statement.level else "", statement.module) if part)
    return [module, *(f"{module}.{alias.name}" for alias in statement.names)]


def test_image_and_one_extra_have_all_that_is_imported() -> None:
    """What docs/deploy.md installs into the pod's image is enough for the measurement and for the CUDA tests."""
    seen: dict[Path, set[str]] = {}
    for path in (ROOT / "bench" / "gpu.py", ROOT / "tests" / "conftest.py", *CUDA_TEST_FILES):
        imported_by(path, seen)
    there, of_module = installed_by("pod", "bench-gpu"), packages_distributions()
    modules = {name for names in seen.values() for name in names} - sys.stdlib_module_names
    known = {name for name in modules if not (ROOT / name).is_dir()}

    assert {"torch", "psutil", "pytest"} < known
    assert set() == {name for name in known if not {canonicalize_name(each) for each in of_module[name]} & there}


def test_no_cuda_test_is_left_out() -> None:
    """Those that are skipped without a device are in the files that are run where there is one."""
    of_devices = {
        path for path in (ROOT / "tests").rglob("test_*.py") if "not torch.cuda.is_available()" in path.read_text()
    }

    assert of_devices - {Path(__file__)} <= set(CUDA_TEST_FILES)
