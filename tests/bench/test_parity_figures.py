"""What `bench.parity` makes of two sets of vectors: it can tell agreement from its absence."""

import numpy as np
import numpy.typing as npt
import pytest

from bench.parity import TOLERANCE, Agreement

_EXPECTED = np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)


def agreement(actual: npt.NDArray[np.float32]) -> Agreement:
    return Agreement.of(("clip", "torch", "bfloat16"), "images", _EXPECTED, actual)


def test_the_same_vectors_agree_whatever_their_length() -> None:
    """Cosine and difference are of vectors of norm 1, as they are served."""
    same = agreement(3 * _EXPECTED)

    assert 32 == same.dim
    assert [1.0, 0.0] == pytest.approx([same.cosine_min, same.difference_max], abs=1e-6)


def test_the_worst_pair_is_shown() -> None:
    """One vector that points elsewhere is not averaged away."""
    turned = _EXPECTED.copy()
    turned[3] *= -1

    assert pytest.approx(-1.0) == agreement(turned).cosine_min


@pytest.mark.parametrize(
    ("share", "layers", "allowed"),
    [
        pytest.param(0.9, 12, True, id="within"),
        pytest.param(1.1, 12, False, id="beyond"),
        pytest.param(1.1, 24, True, id="within, of a deeper tower"),
        pytest.param(1.5, 24, False, id="beyond, of a deeper tower"),
        pytest.param(1.1, 2, False, id="beyond, of a shallow tower"),
        pytest.param(float("nan"), 12, False, id="no number"),
    ],
)
def test_what_a_numeric_type_explains_is_allowed(share: float, layers: int, allowed: bool) -> None:
    """And what it does not is not: rounding errors of layers add up as a random walk."""
    spread = np.mean([np.linalg.norm(one - other) for at, one in enumerate(_EXPECTED) for other in _EXPECTED[:at]])
    step = share * TOLERANCE["bfloat16"] * spread / np.sqrt(_EXPECTED.shape[1])

    assert allowed is agreement((_EXPECTED + step).astype(np.float32)).allowed(layers)
