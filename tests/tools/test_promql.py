"""What an expression goes by is found wherever in it it stands."""

import pytest

from tools.promql import Use, uses


def test_labels_of_selector_and_of_every_grouping_are_found() -> None:
    """Also in the argument of a function, below two groupings."""
    [use] = uses('histogram_quantile(0.9, sum by (le, stage) (rate(seconds_bucket{code=~"A|B", job="x"}[5m])))')

    assert Use("seconds_bucket", frozenset({"le", "stage", "code", "job"}), use.chosen) == use
    assert {("code", "A"), ("code", "B"), ("job", "x")} == use.chosen


def test_both_sides_of_an_operator_are_found() -> None:
    """Each with its own groupings."""
    found = uses("sum by (a) (first) / on (a) (sum(second) or vector(0)) > 3")

    assert [("first", {"a"}), ("second", set())] == [(use.metric, set(use.labels)) for use in found]


def test_what_is_no_expression_is_refused() -> None:
    """With the parser's own words."""
    with pytest.raises(ValueError, match="left parenthesis"):
        uses("sum by (a (first)")
