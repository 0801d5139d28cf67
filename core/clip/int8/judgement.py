"""How far vectors of int8 are from those of float32, for what searches with them. Pure functions of arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

# Relative to the spread: vectors within it are called the same, in int8 as in bfloat16, and have the same fingerprint.
SAME_VECTORS = 2.5e-2

_FIRST = 10


@dataclass(frozen=True, slots=True)
class Error:
    """Distance between a vector and what it should be, relative to the mean distance between different ones.

    The spread is the measure, since a cosine says little of a model whose vectors all lie close together.
    """

    mean: float
    p99: float

    @classmethod
    def of(cls, expected: Vectors, actual: Vectors) -> "Error":
        """Of (n, dim), row by row, not normalised; n is at least 2."""
        relative = np.linalg.norm(expected - actual, axis=1) / spread(expected)
        return cls(float(relative.mean()), float(np.quantile(relative, 0.99)))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a search for images by text: the share of texts whose best image is the same, and of the ten best images."""

    top_1: float
    top_10: float

    @classmethod
    def of(cls, expected: tuple[Vectors, Vectors], actual: tuple[Vectors, Vectors]) -> "Agreement":
        """Of texts (m, dim) and images (n, dim) each."""
        before, after = _best(*expected), _best(*actual)
        shared = [len(set(one) & set(other)) / len(one) for one, other in zip(before, after, strict=True)]
        return cls(float((before[:, 0] == after[:, 0]).mean()), float(np.mean(shared)))


def spread(vectors: Vectors) -> float:
    """Return the mean distance between different rows of (n, dim)."""
    exact = vectors.astype(np.float64)
    distances = [np.linalg.norm(exact[row + 1 :] - exact[row], axis=1) for row in range(len(exact) - 1)]
    return float(np.concatenate(distances).mean())


def _best(texts: Vectors, images: Vectors) -> npt.NDArray[np.intp]:
    """For each text the images that are nearest to it by cosine, best first, (m, ten or all)."""
    return np.argsort(-(_unit(texts) @ _unit(images).T), axis=1, kind="stable")[:, :_FIRST]


def _unit(vectors: Vectors) -> npt.NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    units: npt.NDArray[np.float64] = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return units
