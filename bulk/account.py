"""How many rows there are and what became of them: while a run goes on, and in its summary."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from bulk.plan import Model


@dataclass(slots=True)
class Account:
    """Of the `rows` that are to be done, `before` were by earlier runs."""

    rows: int
    before: int = 0
    this_run: int = 0
    rejects: int = 0

    @property
    def done(self) -> int:
        """How many rows have a vector or a reject."""
        return self.before + self.this_run

    def note(self, codes: Counter[str | None]) -> None:
        """A piece has been done: how many rows have which code, None for a vector."""
        self.this_run += codes.total()
        self.rejects += codes.total() - codes[None]


@dataclass(frozen=True, slots=True)
class Cost:
    """`per_hour` is what all machines of a run cost together, in whatever money."""

    per_hour: float | None

    def of(self, seconds: float) -> float | None:
        """None where nobody has said what they cost."""
        return None if self.per_hour is None else round(self.per_hour * seconds / 3600, 4)


def per_second(rows: float, seconds: float = 1.0) -> float:
    """As a summary has it. A slow rate keeps three digits, as an estimate divides by it."""
    rate = rows / seconds
    return round(rate, 1) if rate >= 10 else float(f"{rate:.3g}")


@dataclass(frozen=True, slots=True)
class Summary:
    """What an output has, counted in its files; the rate and the cost are of the last run alone."""

    rows: int
    vectors: int
    rejects: int
    rejects_by_code: dict[str, int]
    rows_of_this_run: int
    seconds: float
    rows_per_second: float
    rows_per_second_once_running: float
    """Without the start of processes and models: since the first piece was done; 0 for a single piece."""
    cost: float | None
    model: Model
    dtype: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
