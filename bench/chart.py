"""The chart: throughput and latency against clients. The only module that needs matplotlib."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare import ENGINE, HTTP, IMAGE_CEILINGS, IMAGES, NAIVE, naive_images
from bench.figures import Report, Row

# Sizes have colours, the two ways of asking have lines: a reader compares batches and singles of one size.
_COLOURS = {"720p": "tab:green", "1080p": "tab:blue", "12 MP": "tab:red"}


def draw(report: Report, path: Path) -> None:
    """Write a PNG of the image rows of a run."""
    mpl.use("agg")
    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    rate, latency = figure.subplots(1, 2)
    _plot(rate, report, lambda row: row.value)
    _plot(latency, report, lambda row: row.served.latency_ms.p50 if row.served else 0.0)
    _baselines(rate, report)
    rate.set(title="Throughput", xlabel="clients", ylabel="images per second", ylim=(0, None))
    latency.set(title="Latency of a request, median", xlabel="clients", ylabel="milliseconds", yscale="log")
    for axes in (rate, latency):
        axes.grid(visible=True, alpha=0.3)
    figure.legend(*rate.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path)


def _plot(axes: Axes, report: Report, value: Callable[[Row], float]) -> None:
    series: dict[str, list[Row]] = defaultdict(list)
    for row in report.rows:
        if row.section == HTTP and row.kind == IMAGES:
            series[row.what].append(row)
    for what, rows in series.items():
        clients = [row.served.clients for row in rows if row.served]
        colour = next((colour for size, colour in _COLOURS.items() if size in what), "tab:gray")
        style = "o-" if what.startswith("batches") else "s--"
        axes.plot(clients, [value(row) for row in rows], style, color=colour, label=what, markersize=4)
    axes.set_xscale("log", base=2)
    ticks = sorted({row.served.clients for rows in series.values() for row in rows if row.served})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])


def _baselines(axes: Axes, report: Report) -> None:
    naive = report.find(NAIVE, naive_images("1080p"))
    engine = max((row.value for row in report.rows if row.section == ENGINE and row.what in IMAGE_CEILINGS), default=0)
    if engine:
        axes.axhline(engine, color="black", linestyle=":", label="engine alone")
    if naive:
        axes.axhline(naive.value, color="gray", linestyle="-.", label="naive, 1080p")
