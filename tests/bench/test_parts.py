"""What the other benchmarks work out from what they see: growth, imports, arithmetic, the machine."""

from pathlib import Path

import numpy as np
import pytest

from bench.arithmetic import image_flop, relative_error
from bench.chart import draw
from bench.compare import IMAGES
from bench.figures import Report, Row
from bench.gpu_engine import PARITY, SINGLE, checks, share_name
from bench.machine import machine
from bench.memory import Sample, growth
from bench.run import SECTIONS, full_plan, quick_plan
from bench.startup import imports_s
from tests.bench.rows import served

VIT_B_32 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "patch_size": 32, "image_size": 224}


def test_growth_is_that_of_the_second_half() -> None:
    """What a process takes while it warms up is not growth; a step in the second half is."""
    warm_up = [Sample(float(at), 100.0 + at) for at in range(50)]
    level = [Sample(50.0 + at, 150.0) for at in range(25)]
    step = [Sample(75.0 + at, 165.0) for at in range(25)]

    assert growth(warm_up + level + level) == 0.0
    assert growth(warm_up + level + step) == pytest.approx(0.1)


def test_single_large_samples_are_not_growth() -> None:
    """One image of many megapixels at the end does not make a leak."""
    samples = [Sample(float(at), 100.0) for at in range(99)] + [Sample(99.0, 500.0)]

    assert growth(samples) == 0.0


def test_imports_are_read_from_the_trace() -> None:
    """A package counts with what it imports; cheap and unknown ones are left out."""
    trace = """
import time: self [us] | cumulative | imported package
import time:       120 |        120 |   torch._C
import time:     90000 |    1900000 | torch
import time:       100 |      20000 | flask
import time:    500000 |     500000 | somebody_else
{"message": "model ready"}
"""

    assert {"torch": 1.9} == imports_s(trace)


def test_arithmetic_of_a_vit_b_32() -> None:
    """One image of 224 pixels is 8.82 GFLOP in the textbook; the last layer of ours does an eleventh of its work."""
    layer = 2 * (50 * 12 * 768**2 + 2 * 50 * 50 * 768)
    pooling_layer = 2 * ((50 * 2 + 10) * 768**2 + 2 * 50 * 768)

    assert image_flop(VIT_B_32, 512) == pytest.approx(8.82e9 - layer + pooling_layer, rel=2e-3)


def test_error_is_relative_to_the_spread() -> None:
    """Vectors that are off by a hundredth of their mean distance have an error of a hundredth."""
    expected = np.array([[0.0, 0.0], [1.0, 0.0]])

    assert relative_error(expected, expected + np.array([0.0, 0.01])) == pytest.approx(0.01)


def test_machine_is_read_from_cpuinfo() -> None:
    """The processor's name and the flags that choose kernels are kept, the others are not."""
    actual = machine("processor : 0\nmodel name : AMD EPYC\nflags : fpu avx2 avx512_bf16\n\nprocessor : 1\n")

    assert ("AMD EPYC", ["avx2", "avx512_bf16"]) == (actual["processor"], actual["flags"])


def test_gpu_goals_follow_the_rows() -> None:
    """Each goal for a GPU is held against its own row."""
    values = {SINGLE: 2.0, PARITY: 0.6, share_name(256): 39.0, share_name(1024): 40.0}

    rows = [Row("gpu", what, value, "") for what, value in values.items()]

    assert [False, True, True, False] == [check.met for check in checks(rows)]


def test_a_quick_run_measures_every_goal() -> None:
    """The rows that the goals name are among those of a quick run, and those are among the full run's."""
    quick = quick_plan(frozenset(SECTIONS), 1.0).cases
    full = full_plan(frozenset(SECTIONS), 1.0).cases

    assert set(quick) <= set(full)
    assert {("batches of 16, 1080p", 4), ("single images, 1080p", 8), ("texts of ten words", 16)} < {
        (case.what, case.clients) for case in quick
    }


def test_the_chart_is_a_png(tmp_path: Path) -> None:
    """A report becomes a picture, also without its baselines."""
    pytest.importorskip("matplotlib")
    rows = [served("single images, 1080p", 20.0 + clients, kind=IMAGES, clients=clients) for clients in (1, 4)]
    draw(Report({}, tuple(rows)), tmp_path / "bench.png")

    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
