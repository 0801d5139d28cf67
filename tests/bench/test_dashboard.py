"""The picture of a run: its panels are the dashboard's, and what is drawn is what Prometheus said."""

from pathlib import Path

from bench.dashboard import SHOWN, UNITS, Drawn, Times, draw, layers, means
from tools.dashboard import Panel, panel
from tools.testbed.prometheus import Series

TIMES = Times.of(1000.0, 80.0)


def of_run(before: float, beside: float) -> Series:
    """One value before the backfill and another one with it."""
    return Series(
        {}, {at_s: before if at_s < TIMES.backfill_s else beside for at_s in map(float, range(1000, 1081, 2))}
    )


def shown(*, is_stacked: bool = False, is_log: bool = False) -> Panel:
    return Panel("A panel", "What it shows.", "timeseries", "s", is_stacked, is_log, ())


def test_every_panel_of_the_picture_is_the_dashboards() -> None:
    """Its unit has words for an axis."""
    assert {True} == {panel(title).unit in UNITS for title in SHOWN}


def test_backfill_has_the_middle_half() -> None:
    """Before it there are searches alone, and after it."""
    assert (1000.0, 1020.0, 1060.0, 1080.0) == (TIMES.start_s, TIMES.backfill_s, TIMES.after_s, TIMES.end_s)


def test_means_are_of_before_and_of_the_backfill() -> None:
    """The values around its beginning, whose rates are of both, are in neither."""
    *_, line = means([Drawn(shown(), {"queue": of_run(1.0, 3.0)})], TIMES)

    assert ["queue", "1.000", "3.000"] == line.split()


def test_what_nobody_asked_for_has_no_mean() -> None:
    """A percentile of no requests is no number, and no zero."""
    *_, line = means([Drawn(shown(), {"image": of_run(float("nan"), 2.0)})], TIMES)

    assert ["image", "-", "2.000"] == line.split()


def test_layers_of_a_stack_lie_on_each_other() -> None:
    """The second begins where the first ends; where the first says nothing, it is nothing."""
    first, second = Series({}, {1.0: 2.0, 2.0: float("nan")}), Series({}, {1.0: 3.0, 2.0: 4.0})
    drawn = Drawn(shown(is_stacked=True), {"first": first, "second": second})

    assert [("first", [0.0, 0.0], [2.0, 0.0]), ("second", [2.0, 0.0], [5.0, 4.0])] == list(layers(drawn, [1.0, 2.0]))


def test_picture_is_drawn(tmp_path: Path) -> None:
    """Stacks, lines and logarithms, in as many rows as there are panels."""
    lines = {"one": of_run(1.0, 3.0), "two": of_run(2.0, 5.0)}
    drawn = [Drawn(shown(is_stacked=True), lines), Drawn(shown(), lines), Drawn(shown(is_log=True), lines)] * 2
    draw(drawn, TIMES, tmp_path / "picture.png")

    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
