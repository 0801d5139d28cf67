"""Which layers stay in floating point so that the rest is within the bound: a pure choice, from measured costs."""

from collections.abc import Mapping
from dataclasses import dataclass

# Of what the model multiplies: with more left in floating point, int8 gains too little.
MOST_LEFT = 0.5

# Of the bound, for what is chosen by estimate: costs are measured apart, and the errors of layers are not quite
# independent.
_MARGIN = 0.9


@dataclass(frozen=True, slots=True)
class Layer:
    """`error` is what it alone adds in int8, relative to the spread; `share` is its part of all multiplications."""

    name: str
    error: float
    share: float


def choose_layers_to_leave(layers: Mapping[str, Layer], *, error: float, bound: float) -> frozenset[str] | None:
    """Return the names of the layers to leave, or None where even the most that may be left does not do.

    `error` is that of all layers in int8 together. Errors add up as the steps of a random walk, by their squares; what
    that leaves unexplained of `error` is shared out among them.
    """
    explained = sum(layer.error**2 for layer in layers.values())
    factor = error**2 / explained if explained else 0.0
    remaining, left_share, left = error**2, 0.0, set[str]()
    for layer in sorted(layers.values(), key=_worth, reverse=True):
        if remaining <= (_MARGIN * bound) ** 2:
            break
        if left_share + layer.share > MOST_LEFT:
            continue
        left.add(layer.name)
        left_share += layer.share
        remaining -= factor * layer.error**2
    return frozenset(left) if remaining <= (_MARGIN * bound) ** 2 else None


def _worth(layer: Layer) -> float:
    """What leaving it takes off the square of the error, for each multiplication that int8 then does not speed up."""
    return layer.error**2 / layer.share
