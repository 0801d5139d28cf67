"""Lines of two checkouts: ratios, checks, the table, the JSON file."""

import json
from pathlib import Path

import pytest

from bench.lines import (
    RATIO,
    Findings,
    Line,
    at_least,
    at_most,
    find,
    lines_table,
    ratio_of,
    unless_failed,
    with_ratios,
)
from bench.trees import OTHER, THIS

LINES = (
    Line("texts", THIS.label, {"per second": 90.0, "main ms": 0.5}),
    Line("images", THIS.label, {"per second": 10.0}),
    Line("texts", OTHER, {"per second": 100.0, "main ms": 1.0}),
)


def test_a_ratio_follows_the_two_it_is_of() -> None:
    """Lines of one name stand together, and this tree's figures are divided by the other's."""
    lines = with_ratios(LINES)

    assert [("texts", THIS.label), ("texts", OTHER), ("texts", RATIO), ("images", THIS.label)] == [
        (line.what, line.tree) for line in lines
    ]
    assert {"per second": 0.9, "main ms": 0.5} == lines[2].figures


@pytest.mark.parametrize(
    ("value", "other"),
    [
        pytest.param(None, 1.0, id="not-measured"),
        pytest.param(1.0, None, id="not-measured-before"),
        pytest.param(1.0, 0.0, id="nothing-before"),
        pytest.param(0.004, 0.009, id="noise"),
    ],
)
def test_noise_has_no_ratio(value: float | None, other: float | None) -> None:
    """What is missing or next to nothing on either side gives no ratio."""
    assert ratio_of(value, other) is None


def test_a_figure_that_was_not_measured_is_none() -> None:
    """Neither an unknown row nor an unknown figure is a zero."""
    assert 90.0 == find(LINES, "texts", "per second")
    assert 100.0 == find(LINES, "texts", "per second", OTHER)
    assert {None} == {find(LINES, "texts", "p50 ms"), find(LINES, "videos", "per second")}


def test_checks_hold_at_their_limits() -> None:
    """A goal is met at its limit, missed beyond it, and neither without a figure."""
    assert [True, False, None] == [at_most("goal", value, 0.5, " ms").met for value in (0.5, 0.51, None)]
    assert [True, False, None] == [at_least("goal", value, 0.5).met for value in (0.5, 0.49, None)]


def test_failures_meet_no_goal() -> None:
    """A check over requests that failed is missed, whatever was measured."""
    met = at_least("goal", 1.0, 0.5)

    assert [True, True, False] == [unless_failed(met, failed).met for failed in (None, 0.0, 1.0)]


def test_the_table_has_every_figure_under_its_head() -> None:
    """One line per line; figures that a line has not are blank."""
    head, texts, images, _ = lines_table(LINES).splitlines()

    assert ["what", "tree", "per", "second", "main", "ms"] == head.split()
    assert ["texts", "this", "90.000", "0.500"] == texts.split()
    assert ["images", "this", "10.000"] == images.split()


def test_findings_become_json(tmp_path: Path) -> None:
    """The file holds the run, its lines and its checks."""
    Findings({"commit": "abc"}, LINES[:1], (at_least("goal", 1.0, 0.5),)).write(tmp_path / "results" / "one.json")
    read = json.loads((tmp_path / "results" / "one.json").read_text())

    assert {"commit": "abc"} == read["about"]
    assert [{"what": "texts", "tree": "this", "figures": {"per second": 90.0, "main ms": 0.5}}] == read["lines"]
    assert [True] == [check["met"] for check in read["checks"]]
