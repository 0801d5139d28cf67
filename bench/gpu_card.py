"""What `nvidia-smi` says of a card: what it is, and how busy it is while something runs."""

import csv
import io
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

from bench.figures import CardUse

_COMMAND = "nvidia-smi"
_FACTS = (
    "name", "driver_version", "compute_cap", "memory.total", "ecc.mode.current", "persistence_mode", "power.limit",
    "power.max_limit", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "pcie.link.gen.current",
    "pcie.link.gen.max", "pcie.link.width.current", "pcie.link.width.max",
)  # fmt: skip
# What a card does not report.
_ABSENT = ("", "N/A", "[N/A]", "[Not Supported]", "[Unknown Error]")
_SAMPLED = ("utilization.gpu", "power.draw", "memory.used", "clocks.sm")
_EVERY_MS = 200
_END_TIMEOUT_S = 10


@dataclass(slots=True)
class Watch:
    """`use` is there once the block of `watched` has ended; None where there is no card to ask."""

    use: CardUse | None = field(default=None)


def card(index: int = 0, *, command: str = _COMMAND) -> Mapping[str, str | None]:
    """Name, driver, memory, power, clocks and bus of a card, in `nvidia-smi`'s words; None for what it does not say.

    Each is asked for by itself: of several it answers none if there is one that this driver does not know.
    """
    return {fact: _fact(fact, index, command) for fact in _FACTS}


def _fact(fact: str, index: int, command: str) -> str | None:
    try:
        rows = _rows(_output([command, f"--query-gpu={fact}", "--format=csv,noheader", f"--id={index}"]))
    except (OSError, subprocess.SubprocessError):
        return None
    return None if not rows or rows[0][0] in _ABSENT else rows[0][0]


@contextmanager
def watched(index: int = 0, *, command: str = _COMMAND) -> Iterator[Watch]:
    """Sample the card until the block ends."""
    watch = Watch()
    query = f"--query-gpu={','.join(_SAMPLED)}"
    asked = [command, query, "--format=csv,noheader,nounits", f"--id={index}", f"--loop-ms={_EVERY_MS}"]
    try:
        process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    except OSError:
        yield watch
        return
    try:
        yield watch
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=_END_TIMEOUT_S)
    watch.use = mean_use(output)


def mean_use(output: str) -> CardUse | None:
    """Of lines of `_SAMPLED`; None without a whole one."""
    samples = [numbers for row in _rows(output) if (numbers := _numbers(row)) is not None]
    if not samples:
        return None
    busy, watts, memory, clock = zip(*samples, strict=True)
    return CardUse(round(fmean(busy), 1), round(fmean(watts), 1), max(memory), round(fmean(clock)))


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout  # noqa: S603


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]


def _numbers(row: Sequence[str]) -> list[float] | None:
    """None for a line that was cut off, and for what a card does not report (`[N/A]`)."""
    try:
        return [float(cell) for cell in row] if len(row) == len(_SAMPLED) else None
    except ValueError:
        return None
