"""A vector and how it came about: what the embedder gives and the answers are made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embedding:
    """A float32 (dim,) vector with the milliseconds it took; `truncated` when a text was cut to fit.

    `tokens` is how many of them the model read, start and end included; none of an image. A `cached` one was not
    computed for this request.
    """

    vector: Vector
    timings: dict[str, float]
    truncated: bool = False
    tokens: int = 0
    cached: bool = False
