"""A layer's weights as eight-bit integers, each rounded so that it makes up for the error of those before. Numpy only.

The method is GPTQ (Frantar et al. 2022, arXiv:2210.17323), with eight bits: a sixth of the error of rounding to the
nearest (docs/decisions/0030-int8.md).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Symmetric, so that zero is exact: -128 is not used.
_LARGEST = 127

# Added to the diagonal, as a share of its mean: inputs that are hardly ever seen make the moments near singular.
_DAMPING = 0.01

# Errors are handed on at once within so many inputs, and to all later ones in one matrix product.
_BLOCK = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Int8Weights:
    """Those of one layer: `values` int8 (outputs, inputs), times a scale per output, float32 (outputs,)."""

    values: npt.NDArray[np.int8]
    scales: Floats

    def float32(self) -> Floats:
        """Return the weights that they stand for."""
        return self.values * self.scales[:, None]


def round_weights(weights: Floats, moments: npt.NDArray[np.float64]) -> Int8Weights:
    """Round float32 (outputs, inputs) so that the layer's outputs change little for the inputs that it gets.

    `moments` is the mean of x xᵀ over those inputs, (inputs, inputs).
    """
    scales = _scales(weights)
    # The inputs that matter most first, while all others can still make up for them.
    order = np.argsort(-moments.diagonal(), kind="stable")
    # Inputs in rows, so that what one step reads and writes lies together.
    left = np.ascontiguousarray(weights.T[order])
    rounded = np.empty_like(left)
    factors = _factors(moments[np.ix_(order, order)])
    for start in range(0, len(left), _BLOCK):
        end = min(start + _BLOCK, len(left))
        errors = np.empty_like(left[start:end])
        for row in range(start, end):
            rounded[row] = np.clip(np.rint(left[row] / scales), -_LARGEST, _LARGEST)
            error = errors[row - start] = (left[row] - rounded[row] * scales) / factors[row, row]
            left[row + 1 : end] -= np.outer(factors[row, row + 1 : end], error)
        left[end:] -= factors[start:end, end:].T @ errors
    values = np.empty(weights.shape, np.int8)
    values[:, order] = rounded.T
    return Int8Weights(values, scales)


def _scales(weights: Floats) -> Floats:
    """The largest weight of each output is the largest integer; an output without weights may have any scale."""
    largest = np.abs(weights).max(axis=1)
    return np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)


def _factors(moments: npt.NDArray[np.float64]) -> Floats:
    """The upper Cholesky factor of the inverse: row i says how the inputs after i make up for an error of input i."""
    damping = _DAMPING * moments.diagonal().mean() or 1.0
    inverse = np.linalg.inv(moments + damping * np.eye(len(moments)))
    return np.linalg.cholesky(inverse).T.astype(np.float32)
