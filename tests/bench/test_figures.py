"""Percentiles, ratios, goals and the JSON file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.compare import ENGINE, IMAGES, NAIVE, START, TEXTS, compared
from bench.figures import Percentiles, Report, Row
from bench.goals import SECOND_START, checks
from bench.table import checklist, table
from tests.bench.rows import served

CEILINGS = (
    Row(NAIVE, "images 1080p, batch 16", 10.0, "images/s", IMAGES),
    Row(NAIVE, "images 12 MP, batch 16", 2.0, "images/s", IMAGES),
    Row(NAIVE, "texts padded to 77, batch 16", 20.0, "texts/s", TEXTS),
    Row(ENGINE, "images, batch 16", 40.0, "images/s", IMAGES),
    Row(ENGINE, "images, batch 32", 50.0, "images/s", IMAGES),
    Row(ENGINE, "texts of 12 tokens, batch 16", 400.0, "texts/s", TEXTS),
)
SERVED = (
    served("batches of 16, 1080p", 40.0, kind=IMAGES, clients=4),
    served("single images, 1080p", 20.0, kind=IMAGES, clients=8),
    served("texts of ten words", 200.0, kind=TEXTS, clients=16),
    served("single images, 1080p", 25.0, kind=IMAGES, clients=1),
)
ROWS = compared((*CEILINGS, *SERVED, Row(START, SECOND_START, 2.5, "s")))


def test_percentiles_are_of_all_values() -> None:
    """Percentiles interpolate between the values, the maximum is one of them, and the count is theirs."""
    actual = Percentiles.of([float(value) for value in range(1, 102)])

    assert Percentiles(101, 51.0, 96.0, 100.0, 101.0) == actual


def test_there_are_no_percentiles_of_nothing() -> None:
    """A measurement without values is an error, not a zero."""
    with pytest.raises(ValueError, match="no values"):
        Percentiles.of([])


def test_rates_stand_beside_naive_and_the_best_ceiling() -> None:
    """Images over HTTP are compared with the naive rate and with the engine's best batch."""
    row = Report({}, ROWS).find("http", "batches of 16, 1080p", clients=4)

    assert row is not None
    assert (4.0, 0.8) == (row.times_naive, row.share_of_ceiling)


def test_texts_stand_beside_texts() -> None:
    """Texts are compared with naive texts and with the engine at their own padded length."""
    row = Report({}, ROWS).find("http", "texts of ten words", clients=16)

    assert row is not None
    assert (10.0, 0.5) == (row.times_naive, row.share_of_ceiling)


def test_a_size_stands_beside_the_naive_rate_of_that_size() -> None:
    """Large images are not compared with the naive rate of small ones."""
    [*_, row] = compared([*CEILINGS, served("single images, 12 MP", 20.0, kind=IMAGES, clients=8)])

    assert row.times_naive == 10.0


def test_nothing_is_compared_with_what_was_not_measured() -> None:
    """Without its baseline in the same run, a row has no ratio."""
    [row] = compared(SERVED[:1])

    assert (None, None) == (row.times_naive, row.share_of_ceiling)


def test_each_goal_is_met_or_not_by_its_own_row() -> None:
    """Goals hold at their limits and fail below them: here the single images are too slow."""
    expected = [True, True, False, True, True, True, True]

    assert expected == [check.met for check in checks(Report({}, ROWS))]


def test_the_worst_row_decides_about_health() -> None:
    """One row with a slow /health is enough to miss the goal."""
    slow = served("texts of ten words", 200.0, kind=TEXTS, clients=64, health_p99_ms=25.0)
    [check] = [check for check in checks(Report({}, (*ROWS, slow))) if check.goal.startswith("/health")]

    assert check.met is False
    assert "64 clients" in check.measured


def test_failed_requests_meet_no_goal() -> None:
    """A rate with failures in it is not a rate of answers."""
    failing = compared([*CEILINGS, served("batches of 16, 1080p", 40.0, kind=IMAGES, clients=4, failed=1)])

    assert checks(Report({}, failing))[0].met is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    """A run of one section says nothing about the goals of the others."""
    assert {None} == {check.met for check in checks(Report({}, CEILINGS))}


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    """What is written to bench/results is read back equal."""
    report = Report({"machine": {"cores": 2}}, ROWS, checks(Report({}, ROWS)))
    report.write(tmp_path / "results" / "bench.json")

    assert report == Report.read(tmp_path / "results" / "bench.json")


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A file that is not a report is an error, not an empty report."""
    (tmp_path / "bench.json").write_text('{"rows": [{"section": "http"}]}')

    with pytest.raises(ValidationError):
        Report.read(tmp_path / "bench.json")


def test_the_table_has_a_line_per_row_and_units() -> None:
    """Every row is one line, with its unit and its ratios."""
    lines = table(ROWS).splitlines()
    [line] = [line for line in lines if "batches of 16" in line]

    assert len(lines) == 1 + len(ROWS)
    assert ["40.00", "images/s", "4.00", "80%"] == line.split()[6:10]


def test_the_checklist_says_what_was_missed() -> None:
    """A missed goal is told from one that was not measured."""
    lines = checklist(checks(Report({}, ROWS))).splitlines()

    assert ["met", "met", "NOT MET", "met", "met", "met", "met"] == [line[:8].strip() for line in lines]
