"""What a run would take, by a sample of its rows that goes all the way to files and is then removed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bulk.plan import Folders, Planned, write_plan
from bulk.progress import Progress, duration
from bulk.run import Options, Run
from bulk.store import Store
from core.settings import ServiceSettings

_FOLDER = "_estimate"
_FEWEST_PIECES = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """For all rows, at the sample's rate and size."""

    rows: int
    seconds: float
    bytes: int
    cost: float | None

    def lines(self) -> Iterator[str]:
        yield f"{self.rows:,} rows: about {duration(self.seconds)} ({self.rows / self.seconds:,.0f} a second)"
        yield f"vectors: about {self.bytes / 1e9:,.2f} GB"
        if self.cost is not None:
            yield f"cost: about {self.cost:,.2f}"


def estimate(planned: Planned, folders: Folders, settings: ServiceSettings, options: Options, *, rows: int) -> Estimate:
    """Embed about so many rows. Raises `BulkError`."""
    beside = _beside(folders)
    # One that was killed has left its own.
    remove_sample(folders)
    # Enough pieces to see how fast they follow each other.
    sample = replace(planned, piece_rows=min(planned.piece_rows, max(1, rows // _FEWEST_PIECES)))
    try:
        plan = write_plan(beside, sample, planned.input.sample(rows))
        store = Store(plan, beside)
        made = Run(store, settings, options).embed(Progress())
        total = planned.input.count()
        seconds = total / (made.rows_per_second_once_running or made.rows_per_second)
        size = store.vectors.size() / max(1, made.vectors)
        return Estimate(total, seconds, round(total * size), options.cost.of(seconds))
    finally:
        remove_sample(folders)


def remove_sample(folders: Folders) -> None:
    """What an estimate has written, however it ended. Raises `BulkError`."""
    _beside(folders).output.remove()


def _beside(folders: Folders) -> Folders:
    return Folders(folders.output / _FOLDER)
