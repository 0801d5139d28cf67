"""Figures under a name, of one checkout or of two: their table, their ratios, their JSON. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from bench.figures import Check
from bench.trees import OTHER, THIS

RATIO = "ratio"

# Smaller figures are noise, and so is what they give divided by each other.
_LEAST_WITH_RATIO = 0.01

_LABEL_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured of one tree under one name. A figure's name has its unit; None is what could not be told."""

    what: str
    tree: str
    figures: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Findings:
    """One run: `about` is the machine's, `lines` are in the order of the table."""

    about: Mapping[str, Any]
    lines: tuple[Line, ...]
    checks: tuple[Check, ...]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(self, indent=2) + b"\n")


def find(lines: Sequence[Line], what: str, figure: str, tree: str = THIS.label) -> float | None:
    """The figure of that name, or None if it was not measured."""
    return next((line.figures.get(figure) for line in lines if (line.what, line.tree) == (what, tree)), None)


def with_ratios(lines: Sequence[Line]) -> list[Line]:
    """Those of one name together and, where both trees were measured, this one's figures over the other's."""
    together = list[Line]()
    for what in dict.fromkeys(line.what for line in lines):
        of_name = {line.tree: line for line in lines if line.what == what}
        together += of_name.values()
        if {THIS.label, OTHER} <= of_name.keys():
            together.append(Line(what, RATIO, _over(of_name[THIS.label].figures, of_name[OTHER].figures)))
    return together


def lines_table(lines: Sequence[Line]) -> str:
    """One line each under a line of heads; a figure is as wide as its name."""
    heads = list(dict.fromkeys(name for line in lines for name in line.figures))
    width = max((len(line.what) for line in lines), default=0)
    first = f"{'what':{width}}  {'tree':{_LABEL_WIDTH}}" + "".join(f"  {head:>7}" for head in heads)
    return "\n".join([first, *(_text(line, heads, width) for line in lines)])


def ratio_of(value: float | None, other: float | None) -> float | None:
    """`value` over `other`; None where one of them is not there or next to nothing."""
    if value is None or other is None or min(value, other) < _LEAST_WITH_RATIO:
        return None
    return value / other


def at_most(goal: str, value: float | None, most: float, unit: str) -> Check:
    """A check of a figure that should be small; met is None when there is none."""
    return Check(goal, "not measured", None) if value is None else Check(goal, f"{value:.3g}{unit}", value <= most)


def at_least(goal: str, value: float | None, least: float, unit: str = "") -> Check:
    """A check of a figure that should be large; met is None when there is none."""
    return Check(goal, "not measured", None) if value is None else Check(goal, f"{value:.3g}{unit}", value >= least)


def unless_failed(check: Check, failed: float | None) -> Check:
    """Missed when requests failed: a refusal costs less than an answer, and comes sooner."""
    return Check(check.goal, f"{check.measured}, but {failed:.0f} failed", met=False) if failed else check


def _over(ours: Mapping[str, float | None], theirs: Mapping[str, float | None]) -> Mapping[str, float | None]:
    return {name: ratio_of(value, theirs.get(name)) for name, value in ours.items()}


def _text(line: Line, heads: Sequence[str], width: int) -> str:
    cells = ((line.figures.get(head), max(7, len(head))) for head in heads)
    figures = "".join(f"  {'' if value is None else _figure(value):>{wide}}" for value, wide in cells)
    return f"{line.what:{width}}  {line.tree:{_LABEL_WIDTH}}{figures}".rstrip()


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3f}"
