"""The Grafana dashboard: it fits Grafana's schema, and asks for nothing that is not measured."""

import json
from collections import Counter
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.measured import known, strange
from tests.deploy.test_rules import FAULTS
from tools.dashboard import Panel, UnknownVariable, dashboard, panel, panels
from tools.promql import uses

# Of one kind of data source or of Grafana's own editor: its schema knows the rest.
_BESIDE_THE_SCHEMA = {"definition", "titleFormat", "textFormat"}
_GRAFANAS_COLUMNS = 24


def every_panel() -> list[Any]:
    return [pytest.param(one, id=one.title) for one in panels()]


def lost(given: object, kept: object, place: str = "") -> list[str]:
    """What of `given` is not in `kept`, by its place."""
    if isinstance(given, dict) and isinstance(kept, dict):
        members = [(key, value) for key, value in given.items() if key not in _BESIDE_THE_SCHEMA]
        return [one for key, value in members for one in lost(value, kept.get(key), f"{place}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [one for position, (mine, its) in pairs for one in lost(mine, its, f"{place}[{position}]")]
    return [] if given == kept else [place]


def test_dashboard_fits_grafanas_schema() -> None:
    """Grafana's own types for version 11 read it and write it again: no member is unknown to them."""
    plugins.register_default_plugins()
    read = Dashboard.from_json(dashboard())
    written = json.loads(JSONEncoder().encode(read))

    assert [] == lost(dashboard(), written)
    assert read.schema_version == 39


def test_member_that_grafana_does_not_know_is_seen() -> None:
    """The check above can fail: a misspelt member of a panel gets lost."""
    plugins.register_default_plugins()
    wrong = dashboard()
    wrong["panels"][1]["optoins"] = wrong["panels"][1].pop("options")
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(wrong)))

    assert [".panels[1].optoins"] == lost(wrong, written)


@pytest.mark.parametrize("shown", every_panel())
def test_panel_asks_for_what_is_measured(shown: Panel) -> None:
    """Every metric, every label and every code in its expressions is one of the service's."""
    asked = [use for target in shown.targets for use in uses(target.filled(rate_interval="1m"))]

    assert asked
    assert [] == strange(asked, known())


@pytest.mark.parametrize("shown", every_panel())
def test_panel_is_of_the_chosen_pods(shown: Panel) -> None:
    """Each selector goes by the dashboard's job and instance, and each panel says what it shows."""
    for use in (use for target in shown.targets for use in uses(target.filled(rate_interval="1m"))):
        assert {"job", "instance"} <= use.labels
    assert shown.description


def test_variable_that_the_dashboard_does_not_have_is_refused() -> None:
    """An expression that Grafana would send with a dollar sign must not pass for a good one."""
    target = panels()[0].targets[0]
    with pytest.raises(UnknownVariable, match="pod"):
        type(target)(target.expression.replace("$job", "$pod"), "").filled(rate_interval="1m")


def test_dashboard_and_rules_mean_the_same_by_a_failure() -> None:
    """Who is told by an alert finds the same requests in the panel."""
    [use] = [use for use in uses(panel("Requests that fail").targets[0].filled(rate_interval="1m")) if use.chosen]

    assert FAULTS == {value for label, value in use.chosen if label == "code"}


def test_panels_have_places_and_numbers_of_their_own() -> None:
    """Two panels in one place hide each other; two with one number are one to Grafana."""
    members = dashboard()["panels"]
    cells = Counter(
        (row, column)
        for place in (member["gridPos"] for member in members)
        for row in range(place["y"], place["y"] + place["h"])
        for column in range(place["x"], place["x"] + place["w"])
    )

    assert {1} == set(cells.values())
    assert _GRAFANAS_COLUMNS > max(column for _, column in cells)
    assert len(members) == len({member["id"] for member in members})
    assert len(panels()) == len({one.title for one in panels()})


def test_every_question_goes_to_the_chosen_prometheus() -> None:
    """A data source that is named by its identifier exists in one Grafana only."""
    content = dashboard()
    targets = [target for member in content["panels"] for target in member.get("targets", [])]
    variables = [one for one in content["templating"]["list"] if one["type"] == "query"]
    sources = [one["datasource"]["uid"] for one in (*targets, *variables, *content["annotations"]["list"])]

    assert {"${datasource}"} == set(sources)
