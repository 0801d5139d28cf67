"""The bench of a second worker: which pods it compares, and when it is content."""

import pytest

from bench.lines import Line
from bench.processes import FAILED, RATE, Plan, checks, plans


def test_a_second_worker_is_held_against_one_with_a_core_less_and_one_with_as_many() -> None:
    """Else what the second core gives would count for the second worker."""
    assert [Plan(1, (0, 1, 2)), Plan(1, (0, 1, 2, 3)), Plan(2, (0, 1, 2, 3))] == plans([0, 1, 2, 3])


def test_one_core_is_not_enough() -> None:
    """Two workers on one core say nothing."""
    with pytest.raises(SystemExit, match="two cores"):
        plans([0])


def lines_of(case: str, rates: tuple[float, float, float], failed: float = 0.0) -> list[Line]:
    labels = [plan.label for plan in plans([0, 1])]
    return [Line(case, label, {RATE: rate, FAILED: failed}) for label, rate in zip(labels, rates, strict=True)]


def test_more_is_better_and_refusals_are_none() -> None:
    """A rate that is reached by refusing is not reached."""
    singles = lines_of("single images, 512 px", (100.0, 110.0, 150.0))
    texts = lines_of("texts of ten words", (100.0, 150.0, 150.0), failed=3.0)

    assert [True, True, False, False] == [check.met for check in checks([*singles, *texts], plans([0, 1]))]
