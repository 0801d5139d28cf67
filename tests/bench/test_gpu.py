"""What `make bench-gpu` says where there is no GPU, and what it makes of what it sees."""

import os
import subprocess
import sys

import pytest

from bench.figures import CardUse, Report
from bench.gpu import page
from bench.gpu_card import card, mean_use, watched
from bench.gpu_serving import plans
from bench.timing import Rates
from tools.testbed.process import ROOT


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
    output = "10, 100.5, 1500\n30, 120.5, 1600\n[N/A], 1.0, 1\n50, 1"

    assert CardUse(20.0, 110.5, 1600.0) == mean_use(output)
    assert mean_use("[N/A], [N/A], 5\n") is None


def test_no_card_no_use() -> None:
    """Where there is no `nvidia-smi` nothing is claimed, and the measurement goes on."""
    with watched(command="no-such-command-here") as watch:
        pass

    assert watch.use is None
    assert {} == card(command="no-such-command-here")


def test_each_pod_is_asked_for_what_is_compared() -> None:
    """The full load of every other pod is among what the first one, as shipped, is asked for: it is the baseline."""
    shipped, *others = plans(clients=(1, 64), device_batches=(64,), workers=(2, 4))

    assert [
        {},
        {"MAX_DEVICE_BATCH": "64"},
        {"WORKERS": "2", "MAX_CONCURRENT_REQUESTS": "128"},
        {"WORKERS": "4", "MAX_CONCURRENT_REQUESTS": "256"},
    ] == [plan.settings for plan in (shipped, *others)]
    for plan in others:
        assert set(plan.cases) <= set(shipped.cases)


@pytest.mark.parametrize("dry", [True, False])
def test_page_says_what_a_dry_run_is(dry: bool) -> None:
    """Twice, above and below figures that are none of a GPU; a real run has the card for its title."""
    name = {} if dry else {"name": "NVIDIA X"}
    about = {
        "settings": {"dry_run": dry, "card": name, "cuda": None, "cudnn": None, "model": "m"},
        "machine": {"processor": "CPU", "cores": 2},
        "versions": {"torch": "2"},
        "commit": "abc",
    }
    row = Rates((3.0, 1.0, 2.0)).row("engine", "images, batch 1", "images/s")

    text = page(Report(about, (row,)))

    assert (2 if dry else 0) == text.count("DRY RUN ON A CPU")
    assert text.startswith("# CPU" if dry else "# NVIDIA X")
    assert "2.00 images/s" in text
    assert "1.00-3.00" in text
