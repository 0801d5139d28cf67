"""What the devices have done since the start: for metrics, and for whoever measures how full batches are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from core import metrics
from core.batching.items import Modality
from core.metrics import Distribution, Metric, Reading


@dataclass(frozen=True, slots=True)
class Tally:
    """Forward passes that went well: how many, of how many items, and how long they ran and their items had waited. Of
    texts also the tokens, and what was added to make them equally long.
    """

    passes: int = 0
    items: int = 0
    forward_s: float = 0.0
    queue_s: float = 0.0
    tokens: int = 0
    padding: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.passes + other.passes,
            self.items + other.items,
            self.forward_s + other.forward_s,
            self.queue_s + other.queue_s,
            self.tokens + other.tokens,
            self.padding + other.padding,
        )


def total(tallies: Iterable[Mapping[Modality, Tally]]) -> Mapping[Modality, Tally]:
    """Sum over devices."""
    known = list(tallies)
    return {modality: sum((tally[modality] for tally in known), Tally()) for modality in Modality}


class Done:
    """What one device has done; written by its thread alone, read by any."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.tallies = {modality: Tally() for modality in Modality}
        self.sizes = {modality: Distribution(metrics.BATCH_SIZE) for modality in Modality}
        self.out_of_memory = 0

    def note(self, modality: Modality, tally: Tally) -> None:
        """One pass more."""
        self.tallies[modality] += tally
        self.sizes[modality].note(tally.items)


_BY_MODALITY: Mapping[Metric, Callable[[Tally], float]] = {
    metrics.FORWARD_PASSES: lambda tally: tally.passes,
    metrics.EMBEDDED_ITEMS: lambda tally: tally.items,
    metrics.FORWARD_SECONDS: lambda tally: tally.forward_s,
    metrics.QUEUE_SECONDS: lambda tally: tally.queue_s,
}


def readings(done: Sequence[Done]) -> Iterator[Reading]:
    """Of all devices, for metrics."""
    tallies = total(one.tallies for one in done)
    for metric, value in _BY_MODALITY.items():
        for modality, tally in tallies.items():
            yield Reading(metric, (modality.value,), value(tally))
    for modality in Modality:
        sizes = reduce(add, (one.sizes[modality] for one in done), Distribution(metrics.BATCH_SIZE))
        yield Reading(metrics.BATCH_SIZE, (modality.value,), sizes)
    texts = tallies[Modality.TEXT]
    yield from metrics.by_label(metrics.TOKENS, {"text": texts.tokens, "padding": texts.padding})
    yield from metrics.by_label(metrics.OUT_OF_MEMORY, {one.device: one.out_of_memory for one in done})
