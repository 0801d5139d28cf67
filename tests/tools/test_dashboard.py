"""What a panel's question is when Grafana sends it, and what a line of it is called."""

import pytest

from tools.dashboard import Target, UnknownVariable, panel


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param('up{job=~"$job"}[$__rate_interval]', id="plain"),
        pytest.param('up{job=~"${job}"}[${__rate_interval}]', id="braces"),
    ],
)
def test_variables_are_filled_in(expression: str) -> None:
    """In both ways in which Grafana lets them be written."""
    assert 'up{job=~".*"}[1m]' == Target(expression, "").filled(rate_interval="1m")


def test_unknown_variable_is_refused() -> None:
    """It would reach Prometheus with its dollar sign."""
    with pytest.raises(UnknownVariable, match="pod"):
        Target('up{pod="$pod"}', "").filled(rate_interval="1m")


def test_legend_names_a_line_by_its_labels() -> None:
    """A label that a series does not have is nothing."""
    assert "text queue " == Target("", "{{modality}} {{ stage }} {{code}}").name({"modality": "text", "stage": "queue"})


def test_panel_is_found_by_its_title() -> None:
    """And there is none of another."""
    assert "Work that waits" == panel("Work that waits").title
    with pytest.raises(KeyError):
        panel("Work that does not wait")
