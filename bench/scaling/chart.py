"""The chart: what is asked for over the day, and for each way what it costs and how long people wait."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.lines import Line
from bench.scaling.figures import BESIDE, BURST, COST, LONGEST, LOST_IMAGES, P50, P99
from bench.scaling.traffic import DAY_S, Job, Kind

_HOUR_S = DAY_S / 24


def draw(jobs: Sequence[Job], lines: Sequence[Line], path: Path) -> None:
    """Write a PNG."""
    mpl.use("agg")
    figure = Figure(figsize=(11, 6.4), dpi=90, layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(0.7, 1))
    traffic = figure.add_subplot(grid[0, :])
    searches = [job.at_s / _HOUR_S for job in jobs if job.kind is Kind.SEARCH]
    traffic.hist(searches, bins=96, range=(0, 24), color="tab:blue", alpha=0.5, label="searches")
    traffic.set(xlim=(0, 24), xlabel="hour of the day", ylabel="searches in 15 minutes", title="What is asked for")
    images = traffic.twinx()
    for kind, colour in ((Kind.BURST, "tab:red"), (Kind.BACKFILL, "tab:green")):
        of_kind = [job for job in jobs if job.kind is kind]
        hours, items = [job.at_s / _HOUR_S for job in of_kind], [job.items / 1000 for job in of_kind]
        images.bar(hours, items, width=0.12, color=colour, label=kind.value)
    images.set(ylabel="thousand images")
    images.legend(loc="upper left")

    names = [line.what for line in lines]
    places = range(len(names))
    waits = figure.add_subplot(grid[1, 0])
    for offset, name in ((-0.25, P50), (0.0, P99), (0.25, BESIDE)):
        values = [line.figures[name] or 0.0 for line in lines]
        waits.barh([place + offset for place in places], values, height=0.22, label=name)
    waits.set(title="A search takes", xlabel="milliseconds", xscale="log")
    waits.set_yticks(list(places), names)
    lengths = figure.add_subplot(grid[1, 1])
    for offset, name in ((-0.2, BURST), (0.2, LONGEST)):
        values = [line.figures[name] or 0.0 for line in lines]
        lengths.barh([place + offset for place in places], values, height=0.35, label=name)
    for place, line in zip(places, lines, strict=True):
        if line.figures[LOST_IMAGES]:
            length_s, lost = line.figures[LONGEST] or 0.0, line.figures[LOST_IMAGES] or 0.0
            lengths.text(length_s, place, f" {lost:,.0f} lost", va="center", fontsize="small", color="tab:red")
    lengths.set(title="A burst takes", xlabel="seconds", yticks=[])
    lengths.margins(x=0.35)
    costs = figure.add_subplot(grid[1, 2])
    bars = costs.barh(list(places), [line.figures[COST] or 0.0 for line in lines], color="tab:gray")
    costs.bar_label(bars, fmt="%.0f", padding=3)
    costs.set(title="A day costs", xlabel="dollars", yticks=[])
    costs.margins(x=0.15)
    for axes in (waits, lengths, costs):
        axes.invert_yaxis()
        axes.grid(visible=True, axis="x", alpha=0.3)
    for axes in (waits, lengths):
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
