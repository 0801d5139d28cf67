"""What the devices have done since the start: for metrics, and for whoever measures how full batches are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.batching.items import Modality


@dataclass(frozen=True, slots=True)
class Tally:
    """Forward passes that went well: how many, of how many items, and how long they ran and their items had waited."""

    passes: int = 0
    items: int = 0
    forward_s: float = 0.0
    queue_s: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.passes + other.passes,
            self.items + other.items,
            self.forward_s + other.forward_s,
            self.queue_s + other.queue_s,
        )


def total(tallies: Iterable[Mapping[Modality, Tally]]) -> Mapping[Modality, Tally]:
    """Sum over devices."""
    known = list(tallies)
    return {modality: sum((tally[modality] for tally in known), Tally()) for modality in Modality}
