"""Rounding weights: always on the grid, never worse than to the nearest for the inputs that a layer gets."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clip.int8.rounding import Floats, Int8Weights, round_weights


def weights_of(seed: int, outputs: int = 8, inputs: int = 24) -> Floats:
    return np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)


def moments_of(seed: int, inputs: int = 24) -> npt.NDArray[np.float64]:
    """Of inputs that go together, as those of a transformer do."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((200, 5)) @ rng.standard_normal((5, inputs)) + 0.1 * rng.standard_normal((200, inputs))
    moments: npt.NDArray[np.float64] = rows.T @ rows / len(rows)
    return moments


def output_error(weights: Floats, rounded: Int8Weights, moments: npt.NDArray[np.float64]) -> float:
    """Mean square of what rounding changes a layer's outputs by."""
    change = (weights - rounded.float32()).astype(np.float64)
    return float(np.trace(change @ moments @ change.T))


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 150))
def test_any_weights_are_on_the_grid(seed: int, outputs: int, inputs: int) -> None:
    """Integers from -127 to 127, times one scale for each output."""
    rounded = round_weights(weights_of(seed, outputs, inputs), moments_of(seed, inputs))

    assert np.int8 == rounded.values.dtype
    assert (outputs, inputs) == rounded.values.shape
    assert -127 <= rounded.values.min()
    assert (rounded.scales > 0).all()


@given(st.integers(0, 10_000))
def test_independent_inputs_round_to_the_nearest(seed: int) -> None:
    """No other input can make up for an error, so each weight has the least of its own."""
    weights = weights_of(seed)

    rounded = round_weights(weights, np.eye(24))

    assert (np.abs(weights - rounded.float32()) <= 0.5001 * rounded.scales[:, None]).all()


@pytest.mark.parametrize("inputs", [24, 200], ids=["one block", "several blocks"])
def test_inputs_that_go_together_make_up_for_each_other(inputs: int) -> None:
    """A fifth at most of the error of rounding to the nearest is left."""
    weights, moments = weights_of(1, 32, inputs), moments_of(2, inputs)

    rounded, nearest = round_weights(weights, moments), round_weights(weights, np.eye(inputs))

    assert output_error(weights, nearest, moments) / 5 > output_error(weights, rounded, moments)


@pytest.mark.parametrize(
    "moments", [np.zeros((24, 24)), np.ones((24, 24))], ids=["inputs are never seen", "inputs are always the same"]
)
def test_moments_without_an_inverse_are_taken(moments: npt.NDArray[np.float64]) -> None:
    """Dead inputs are common in trained models."""
    weights = weights_of(3)

    rounded = round_weights(weights, moments)

    assert np.isfinite(rounded.float32()).all()
    assert np.abs(weights - rounded.float32()).max() < np.abs(weights).max()


def test_output_without_weights_stays_zero() -> None:
    """It has no largest weight to take a scale from."""
    assert not round_weights(np.zeros((2, 24), np.float32), moments_of(4)).float32().any()


def test_weights_given_are_left_alone() -> None:
    """They may be a view of a file."""
    weights = weights_of(5)
    weights.flags.writeable = False

    round_weights(weights, moments_of(5))
