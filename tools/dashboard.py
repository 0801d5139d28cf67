"""Reads the Grafana dashboard of `deploy/grafana/`: its panels, and what each asks Prometheus."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.testbed.process import ROOT

DASHBOARD = ROOT / "deploy" / "grafana" / "clip.json"

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class UnknownVariable(Exception):
    """An expression names a variable that the dashboard does not have."""


@dataclass(frozen=True, slots=True)
class Target:
    """One question of a panel. `legend` names a series by its labels, in Grafana's way: `{{code}}`."""

    expression: str
    legend: str

    def filled(self, *, rate_interval: str) -> str:
        """The expression as Grafana sends it, of all jobs and instances."""
        values = {"__rate_interval": rate_interval, "job": ".*", "instance": ".*"}
        return _VARIABLE.sub(lambda found: _value(values, found[1] or found[2]), self.expression)

    def name(self, labels: Mapping[str, str]) -> str:
        """What the legend calls a series of these labels."""
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn from its targets; rows are none."""

    title: str
    description: str
    kind: str
    unit: str
    is_stacked: bool
    is_log: bool
    targets: tuple[Target, ...]


def dashboard() -> dict[str, Any]:
    """The file as it is."""
    content: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return content


def panels() -> list[Panel]:
    """In the order in which they stand."""
    return list(_panels(dashboard()["panels"]))


def panel(title: str) -> Panel:
    """The one of that title. Raises `KeyError` where there is none."""
    return {one.title: one for one in panels()}[title]


def _panels(members: list[dict[str, Any]]) -> Iterator[Panel]:
    for member in members:
        if member["type"] == "row":
            continue
        defaults = member["fieldConfig"]["defaults"]
        drawn = defaults.get("custom", {})
        yield Panel(
            title=member["title"],
            description=member["description"],
            kind=member["type"],
            unit=defaults.get("unit", ""),
            is_stacked=drawn.get("stacking", {}).get("mode") == "normal",
            is_log=drawn.get("scaleDistribution", {}).get("type") == "log",
            targets=tuple(Target(one["expr"], one["legendFormat"]) for one in member["targets"]),
        )


def _value(values: Mapping[str, str], name: str) -> str:
    if name not in values:
        raise UnknownVariable(name)
    return values[name]
