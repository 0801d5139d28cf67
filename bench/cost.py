"""What a pod and a serverless endpoint cost by images per day, and where they break even: `python -m bench.cost`.

The formula is in docs/deploy.md. Measures nothing: throughput and prices are arguments.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DAY_S = 86_400
_HOURS = 24


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in one currency; `images_per_s` is what one worker was measured to do on the GPU that the prices are of.

    `utilisation`: the share of the measured throughput that real traffic reaches while a worker is busy. `peak`: the
    busiest hour's rate over the day's average. A burst is traffic after a silence longer than the idle timeout: each
    one pays for a cold start and for one idle timeout.
    """

    images_per_s: float
    pod_per_hour: float
    serverless_per_s: float
    utilisation: float = 0.7
    peak: float = 2.0
    bursts_per_day: float = 24.0
    cold_start_s: float = 20.0
    idle_timeout_s: float = 60.0

    @property
    def effective_per_s(self) -> float:
        return self.images_per_s * self.utilisation

    def pods(self, images_per_day: float) -> int:
        """How many pods carry the busiest hour; always at least one."""
        return max(1, math.ceil(images_per_day * self.peak / (DAY_S * self.effective_per_s)))

    def pod_cost(self, images_per_day: float) -> float:
        """Per day: pods run, and are paid, around the clock."""
        return self.pods(images_per_day) * self.pod_per_hour * _HOURS

    def serverless_cost(self, images_per_day: float) -> float:
        """Per day: seconds of work and what each burst wastes around it, at most all day on every worker."""
        work_s = images_per_day / self.effective_per_s
        around_s = self.bursts_per_day * (self.cold_start_s + self.idle_timeout_s) if images_per_day else 0.0
        return min(work_s + around_s, self.pods(images_per_day) * DAY_S) * self.serverless_per_s

    def break_even(self) -> float | None:
        """Images per day above which one pod is cheaper; None if serverless costs less as far as one pod carries."""
        capacity = DAY_S * self.effective_per_s / self.peak
        affordable_s = self.pod_per_hour * _HOURS / self.serverless_per_s
        work_s = affordable_s - self.bursts_per_day * (self.cold_start_s + self.idle_timeout_s)
        images = max(0.0, work_s) * self.effective_per_s
        return images if images <= capacity else None


def main(arguments: Sequence[str]) -> None:
    """Print the break-even and a small table; with --output also draw it."""
    options = _parse(arguments)
    fields = {name: value for name, value in vars(options).items() if name != "output"}
    rates = Rates(**fields)
    even = rates.break_even()
    capacity = DAY_S * rates.effective_per_s / rates.peak
    print(f"one pod carries {capacity:,.0f} images a day at a peak of {rates.peak:g} times the average")
    print(
        f"a pod is cheaper above {even:,.0f} images a day"
        if even is not None
        else "serverless is cheaper as far as one pod carries"
    )
    print(f"{'images a day':>14}{'pods':>6}{'pod':>10}{'serverless':>12}")
    for images in (0, *np.geomspace(1_000, capacity * 2, 6)):
        row = (
            f"{images:14,.0f}{rates.pods(images):6}{rates.pod_cost(images):10.2f}{rates.serverless_cost(images):12.2f}"
        )
        print(row)
    if options.output is not None:
        draw(rates, options.output)


def draw(rates: Rates, path: Path) -> None:
    """Write a PNG: cost per day of both over images per day, and the break-even."""
    import matplotlib as mpl  # only for the picture

    mpl.use("agg")
    from matplotlib import pyplot as plt

    images = np.linspace(0, DAY_S * rates.effective_per_s / rates.peak * 2, 600)
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=80, layout="constrained")
    axes.plot(images, [rates.pod_cost(count) for count in images], drawstyle="steps-post", label="pods")
    axes.plot(images[1:], [rates.serverless_cost(count) for count in images[1:]], label="serverless")
    even = rates.break_even()
    if even is not None:
        axes.axvline(even, color="grey", linestyle=":", label=f"break-even: {even:,.0f} a day")
    axes.set(xlabel="images a day", ylabel="cost a day", xlim=(0, images[-1]))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value / 1000:,.0f}k")
    axes.set_title(
        f"{rates.images_per_s:g} images/s measured, {rates.utilisation:.0%} reached, {rates.pod_per_hour:g} an hour"
        f" (pod), {rates.serverless_per_s:g} a second (serverless)",
        fontsize=8,
    )
    axes.legend()
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cost", description="Pod or serverless: where they break even."
    )
    parser.add_argument("--images-per-s", type=float, required=True, help="of one worker, measured")
    parser.add_argument("--pod-per-hour", type=float, required=True, help="price of a pod with that GPU")
    parser.add_argument("--serverless-per-s", type=float, required=True, help="price of a serverless worker with it")
    parser.add_argument("--utilisation", type=float, default=0.7, help="share of the throughput that traffic reaches")
    parser.add_argument("--peak", type=float, default=2.0, help="busiest hour over the average")
    parser.add_argument("--bursts-per-day", type=float, default=24.0, help="times a worker starts from nothing")
    parser.add_argument("--cold-start-s", type=float, default=20.0)
    parser.add_argument("--idle-timeout-s", type=float, default=60.0)
    parser.add_argument("--output", type=Path, help="write a PNG there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
