"""The definitions that everything else goes by, and the distributions that histograms are made of."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.metrics import METRICS, STAGE_SECONDS, Distribution, Kind, Metric

_SMALL = Metric("small_items", Kind.HISTOGRAM, "", bounds=(1.0, 2.0))


def test_names_are_unique_and_follow_the_conventions() -> None:
    """One namespace; counters end in _total and nothing else does; times are in seconds."""
    names = [metric.name for metric in METRICS]

    assert len(names) == len(set(names))
    assert all(re.fullmatch("clip_[a-z_]+", name) for name in names)
    assert [metric.kind is Kind.COUNTER for metric in METRICS] == [name.endswith("_total") for name in names]
    assert not any("_ms" in name or "milli" in name for name in names)


def test_histograms_alone_have_buckets() -> None:
    """In rising order, each once."""
    for metric in METRICS:
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.bounds)
        assert sorted(set(metric.bounds)) == list(metric.bounds)


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        pytest.param(0.0, [1, 0, 0], id="below all"),
        pytest.param(1.0, [1, 0, 0], id="a bound is the bucket's own"),
        pytest.param(1.5, [0, 1, 0], id="between"),
        pytest.param(2.5, [0, 0, 1], id="above all"),
    ],
)
def test_value_lies_in_the_bucket_of_the_next_bound(value: float, counts: list[int]) -> None:
    """As Prometheus has it: `le` means less or equal."""
    distribution = Distribution(_SMALL)
    distribution.note(value)

    assert (counts, value) == (distribution.counts, distribution.total)


@given(st.lists(st.floats(0.0, 100.0)), st.lists(st.floats(0.0, 100.0)))
def test_sum_of_distributions_is_that_of_all_values(some: list[float], others: list[float]) -> None:
    """In any split, and whatever is noted later does not change a copy."""
    one, other, together = (Distribution(STAGE_SECONDS) for _ in range(3))
    for value in some:
        one.note(value)
    for value in others:
        other.note(value)
    together.note_all([*some, *others])
    copied, added = one.copy(), one + other
    one.note(1.0)

    assert together.counts == added.counts
    assert together.total == pytest.approx(added.total)
    assert len(some) == sum(copied.counts)
