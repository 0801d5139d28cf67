"""The picture of what int8 costs and gains. The only other module that needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.lines import Line
from core.clip.int8.judgement import SAME_VECTORS

_MARKERS: Mapping[str, str] = {"full size, images": "o", "full size, texts": "s"}
_COLOURS = ("tab:red", "tab:orange", "tab:brown", "tab:gray", "tab:blue", "tab:green")


def draw(lines: Sequence[Line], path: Path, *, error: str, times: str) -> None:
    """Write a PNG of the full-size model's ways: how much faster against how far off, and where the bound is."""
    mpl.use("agg")
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    ways = list(dict.fromkeys(line.what.partition(": ")[2] for line in lines))
    for line in lines:
        tower, _, way = line.what.partition(": ")
        if tower in _MARKERS:
            label = way if tower == next(iter(_MARKERS)) else None
            axes.scatter(
                line.figures[error] or 0.0, line.figures[times] or 0.0,
                s=70, marker=_MARKERS[tower], color=_COLOURS[ways.index(way)], label=label,
            )  # fmt: skip
    axes.axvspan(0, 100 * SAME_VECTORS, color="tab:green", alpha=0.08)
    axes.axvline(100 * SAME_VECTORS, color="tab:green", linestyle="--")
    axes.set(
        title="int8, full-size ViT-B/32: images are circles, texts are squares; accepted on the left of the line",
        xlabel="error, percent of the spread between vectors", ylabel="times as fast as float32",
        xlim=(0, None), ylim=(0, None),
    )  # fmt: skip
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
