"""The dashboard's panels over a run whose limit is to be found in them: `python -m bench.dashboard`, two minutes.

A full-size pod that a real Prometheus scrapes. People search by text all the time; a backfill sends batches of 16
thumbnails for the middle half of it. Prometheus is asked what the dashboard of `deploy/grafana/` asks, and what it
answers is drawn. Prints the means of the time before the backfill and of the time with it.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.images import ImageServer, image_server
from bench.load import Load, drive
from bench.machine import commit, machine
from bench.paced import ask_at_pace
from bench.pod import end_with_pods, full_size_pod
from bench.serving import named_files
from bench.timing import new_process
from bench.work import ImageBatches, Texts
from bench.workload import ROOT, THUMBNAIL, pictures
from tools.dashboard import Panel, panel
from tools.testbed.prometheus import Prometheus, Series, is_installed, prometheus_server

PICTURE = ROOT / "docs" / "images" / "dashboard.png"

# What shows the limit, in the order of the dashboard: what is asked, how fast, where the time goes, what is used up.
SHOWN = (
    "Items by client",
    "Time of a request, median",
    "Time of a request, 99th percentile",
    "Seconds of an image, by stage",
    "Seconds of a text, by stage",
    "Work that waits",
    "Device's time by kind",
    "Places that are taken",
    "Items in a forward pass",
)
_COLUMNS = 3

_SCRAPE_S = 1.0
_STEP_S = 2.0
# Prometheus' advice is four scrapes; a batch takes seconds, so it is more.
_RATE_INTERVAL = "10s"
_RATE_INTERVAL_S = 10.0

_SEARCHES_EVERY_S = 0.25
_BACKFILL_CLIENTS = 4
_SECRETS = {name: name * 8 for name in ("search", "backfill")}

# As the axes say it; the panel's unit by Grafana's name.
UNITS: Mapping[str, str] = {
    "s": "seconds",
    "ops": "per second",
    "reqps": "per second",
    "percentunit": "share",
    "short": "",
}


@dataclass(frozen=True, slots=True)
class Times:
    """Unix seconds: when the searches begin, the backfill begins and ends, and the searches end."""

    start_s: float
    backfill_s: float
    after_s: float
    end_s: float

    @classmethod
    def of(cls, start_s: float, seconds: float) -> "Times":
        """The backfill has the middle half."""
        return cls(start_s, start_s + seconds / 4, start_s + seconds * 3 / 4, start_s + seconds)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a panel shows of a run; `lines` by the legend's names."""

    panel: Panel
    lines: Mapping[str, Series]


def main() -> None:
    options = _options()
    if not is_installed():
        sys.exit("Prometheus is not here: `make prometheus` installs it")
    end_with_pods()
    times, drawn = _run(options.seconds)
    where = machine(Path("/proc/cpuinfo").read_text())
    print(f"{where['processor']}, {where['cores']} cores, commit {commit()}\n")
    print("\n".join(means(drawn, times)))
    draw(drawn, times, options.output)


def means(drawn: Sequence[Drawn], times: Times) -> Iterator[str]:
    """Of each line: before the backfill, and with it, each once the rates' window lies within."""
    yield f"{'':50}{'before':>10}{'backfill':>10}"
    for one in drawn:
        yield f"{one.panel.title}, {UNITS[one.panel.unit]}".removesuffix(", ")
        for name, series in one.lines.items():
            before = _mean(series, times.start_s + _RATE_INTERVAL_S, times.backfill_s)
            beside = _mean(series, times.backfill_s + _RATE_INTERVAL_S, times.after_s)
            yield f"  {name:48}{before:>10}{beside:>10}"


def draw(drawn: Sequence[Drawn], times: Times, path: Path) -> None:
    """Write a PNG: each panel as the dashboard has it, the time of the backfill shaded."""
    mpl.use("agg")
    rows = -(-len(drawn) // _COLUMNS)
    figure = Figure(figsize=(13, 3.1 * rows), dpi=90, layout="constrained")
    for axes, one in zip(figure.subplots(rows, _COLUMNS).flat, drawn, strict=False):
        _draw(axes, one, times)
    figure.savefig(path, metadata={"Software": None})


def _run(seconds: float) -> tuple[Times, list[Drawn]]:
    clients = ",".join(f"{name}:{secret}" for name, secret in _SECRETS.items())
    with ExitStack() as stack:
        images = stack.enter_context(image_server(named_files({THUMBNAIL: pictures(THUMBNAIL)})))
        pod = stack.enter_context(full_size_pod({"EMBEDDING_HMAC_CLIENTS": clients}))
        address = pod.base_url.removeprefix("http://")
        prometheus = stack.enter_context(prometheus_server([address], interval_s=_SCRAPE_S))
        processes = [stack.enter_context(new_process()) for _ in _SECRETS]
        _warm_up(pod.base_url, images, processes)
        times = Times.of(time.time(), seconds)
        _ask(pod.base_url, images, processes, times)
        return times, [_drawn(prometheus, panel(title), times) for title in SHOWN]


def _warm_up(base_url: str, images: ImageServer, processes: Sequence[ProcessPoolExecutor]) -> None:
    """What is allocated on first use is no part of the run, and no rate of the run reaches back to it."""
    _ask(base_url, images, processes, Times.of(time.time(), 1.0))
    time.sleep(_RATE_INTERVAL_S + _SCRAPE_S)


def _ask(base_url: str, images: ImageServer, processes: Sequence[ProcessPoolExecutor], times: Times) -> None:
    """Searches for the whole time, batches for the time of the backfill."""
    searching, filling = processes
    first = int(times.start_s) % 100_000 * 10
    texts = Texts(_SECRETS["search"])
    seconds = times.end_s - times.start_s
    searches = searching.submit(
        ask_at_pace, base_url, texts, every_s=_SEARCHES_EVERY_S, seconds=seconds, first_number=first
    )
    time.sleep(max(0.0, times.backfill_s - time.time()))
    batches = ImageBatches(tuple(images.urls.values()), _SECRETS["backfill"])
    backfill = Load(base_url, batches, _BACKFILL_CLIENTS, times.after_s - times.backfill_s, first)
    outcome = filling.submit(drive, backfill).result()
    searches.result()
    if outcome.failed:
        raise RuntimeError(f"{outcome.failed} requests of the backfill failed: {outcome.statuses}")


def _drawn(prometheus: Prometheus, shown: Panel, times: Times) -> Drawn:
    lines: dict[str, Series] = {}
    for target in shown.targets:
        expression = target.filled(rate_interval=_RATE_INTERVAL)
        found = prometheus.query_range(expression, start_s=times.start_s, end_s=times.end_s, step_s=_STEP_S)
        lines |= {target.name(series.labels): series for series in found if _says_something(series)}
    return Drawn(shown, lines)


def _says_something(series: Series) -> bool:
    """An operation that nobody asks for has a percentile of nothing, which is no number."""
    return not all(map(math.isnan, series.values.values()))


def _mean(series: Series, from_s: float, until_s: float) -> str:
    """Of the values that there are; a mean of no items at all is none."""
    values = [value for at_s, value in series.values.items() if from_s <= at_s < until_s and not math.isnan(value)]
    return f"{fmean(values):.3f}" if values else "-"


def _draw(axes: Axes, one: Drawn, times: Times) -> None:
    at_s = sorted({at_s for series in one.lines.values() for at_s in series.values})
    seconds = [moment - times.start_s for moment in at_s]
    for name, below, above in layers(one, at_s):
        if one.panel.is_stacked:
            axes.fill_between(seconds, below, above, label=name, alpha=0.6, linewidth=0.5)
        else:
            axes.plot(seconds, above, label=name, linewidth=1.2)
    axes.axvspan(times.backfill_s - times.start_s, times.after_s - times.start_s, color="tab:gray", alpha=0.12)
    axes.set(title=one.panel.title, ylabel=UNITS[one.panel.unit], xlim=(0, times.end_s - times.start_s))
    if one.panel.is_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="x-small", loc="best")


def layers(one: Drawn, at_s: Sequence[float]) -> Iterator[tuple[str, list[float], list[float]]]:
    """Name, lower and upper edge of each line; those of a stack lie on each other, where nothing counts as none."""
    below = [0.0] * len(at_s)
    for name, series in one.lines.items():
        values = [series.values.get(moment, float("nan")) for moment in at_s]
        if not one.panel.is_stacked:
            yield name, below, values
            continue
        above = [floor + (0.0 if math.isnan(value) else value) for floor, value in zip(below, values, strict=True)]
        yield name, below, above
        below = above


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the whole run; default: %(default)s")
    parser.add_argument("--output", type=Path, default=PICTURE, help="default: docs/images/dashboard.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
