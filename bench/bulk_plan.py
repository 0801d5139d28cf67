"""A hundred million thumbnails on paper: hours, bytes, money, and what breaks first: `python -m bench.bulk_plan`.

Measures nothing: its rates are those in bench/results of the engine on a GPU and of an image's way to pixels on that
card's host (gpu-h100.json), and of Ray by the piece (bulk.json), which is of another machine: the sum is as good as
they are like yours.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from bench.bulk import PIECES, PIECES_RATE
from bench.workload import RESULTS
from bulk.__main__ import PIECE_ROWS

_HOUR_S = 3600.0
_DIM = 512
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Measured:
    """Per second of one GPU, processor seconds of one image, and pieces a second of a whole run."""

    encoded_per_s: float
    decode_s: float
    pieces_per_s: float

    @classmethod
    def read(cls) -> "Measured":
        """From what is committed."""
        rows = {row["what"]: row for row in _json("gpu-h100.json")["rows"]}
        # What neither the pod's own process nor the clients used: its image processes, and the kernel for them.
        served = rows["as shipped, for 20 s: batches of 16, 512 px"]
        pieces = _figures("bulk.json", PIECES)[PIECES_RATE]
        return cls(rows["graphs: images, batch 64"]["value"], served["other_cores"] / served["value"], pieces)


@dataclass(frozen=True, slots=True)
class Machines:
    """`per_hour` is the price of all of them."""

    what: str
    gpus: int
    cores: int
    per_hour: float


@dataclass(frozen=True, slots=True)
class Planned:
    """What a run on some machines takes, and what of it is the limit."""

    machines: Machines
    limits: dict[str, float]
    """Images a second, by what allows no more."""
    rows: int
    image_bytes: int

    @property
    def first(self) -> str:
        return min(self.limits, key=self.limits.__getitem__)

    @property
    def rate(self) -> float:
        return self.limits[self.first]

    @property
    def hours(self) -> float:
        return self.rows / self.rate / _HOUR_S

    def line(self) -> str:
        limits = ", ".join(f"{what} {rate:,.0f}" for what, rate in sorted(self.limits.items(), key=lambda one: one[1]))
        network = self.rate * self.image_bytes * 8 / _GB
        return (
            f"| {self.machines.what} | {self.rate:,.0f} | {self.hours:,.1f} | {network:.1f} |"
            f" {self.hours * self.machines.per_hour:,.0f} | {limits} |"
        )


def main() -> None:
    """Print the table."""
    options = _options()
    measured = Measured.read()
    price_gpu, price_core = options.gpu_per_hour, options.core_per_hour
    every = [
        Machines("1 GPU, 16 cores", 1, 16, price_gpu),
        Machines("1 GPU, 16 cores, and 2 x 32 cores", 1, 80, price_gpu + 64 * price_core),
        Machines("8 GPUs, 128 cores", 8, 128, 8 * price_gpu),
        Machines("8 GPUs, 128 cores, and 8 x 32 cores", 8, 384, 8 * price_gpu + 256 * price_core),
    ]
    print(f"{options.rows:,} images of {options.image_bytes:,} bytes:")
    print(f"- to download: {options.rows * options.image_bytes / 1e12:,.1f} TB")
    for name, size in (("float32", 4), ("float16", 2)):
        print(f"- vectors in {name}: {options.rows * _DIM * size / _GB:,.0f} GB")
    print(f"- rows of the plan: {options.rows * options.row_bytes / _GB:,.0f} GB, ids: {options.rows * 8 / _GB:.1f} GB")
    print(
        "\n| machines | images/s | hours | Gbit/s | dollars | what allows no more images/s |\n|---|---|---|---|---|---|"
    )
    for machines in every:
        print(plan(machines, measured, options.rows, options.image_bytes).line())


def plan(machines: Machines, measured: Measured, rows: int, image_bytes: int) -> Planned:
    """One processor of each GPU is its encoder's."""
    decoding = machines.cores - machines.gpus
    limits = {
        "decoding": decoding / measured.decode_s,
        "GPUs": machines.gpus * measured.encoded_per_s,
        "Ray's driver": measured.pieces_per_s * PIECE_ROWS,
    }
    return Planned(machines, limits, rows, image_bytes)


def _json(name: str) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads((RESULTS / name).read_bytes())
    return document


def _figures(name: str, what: str) -> dict[str, float]:
    lines: Sequence[dict[str, Any]] = _json(name)["lines"]
    found: dict[str, float] = next(line["figures"] for line in lines if (line["what"], line["tree"]) == (what, "this"))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rows", type=int, default=100_000_000)
    add("--image-bytes", type=int, default=50_000)
    add("--row-bytes", type=int, default=60, help="of a row of the plan: id and URL, compressed")
    # As bench.scaling has it; a core is a third party's price as well, and as much an example.
    add("--gpu-per-hour", type=float, default=3.59, help="with 16 cores")
    add("--core-per-hour", type=float, default=0.04)
    return parser.parse_args()


if __name__ == "__main__":
    main()
