"""Which layers stay in floating point: few, worth it, and enough, or none at all."""

import math

from hypothesis import given
from hypothesis import strategies as st

from core.clip.int8.selection import MOST_LEFT, Layer, choose_layers_to_leave


def layers_of(errors: list[float]) -> dict[str, Layer]:
    share = 1 / len(errors)
    return {str(number): Layer(str(number), error, share) for number, error in enumerate(errors)}


def together(errors: list[float]) -> float:
    return math.sqrt(sum(error**2 for error in errors))


def test_the_one_that_is_to_blame_is_left() -> None:
    """Nine layers cost a hundredth each, one a tenth."""
    errors = [0.01] * 9 + [0.1]

    assert frozenset("9") == choose_layers_to_leave(layers_of(errors), error=together(errors), bound=0.035)


def test_of_equal_errors_the_one_with_less_work_is_left() -> None:
    """Leaving it costs less of what int8 gains."""
    layers = {"large": Layer("large", 0.05, 0.4), "small": Layer("small", 0.05, 0.05)}

    assert frozenset(["small"]) == choose_layers_to_leave(layers, error=0.0707, bound=0.056)


def test_where_all_are_alike_nothing_helps() -> None:
    """A tenth of the error cannot be had by leaving half of the work."""
    errors = [0.03] * 20

    assert choose_layers_to_leave(layers_of(errors), error=together(errors), bound=together(errors) / 10) is None


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=60), st.floats(1e-4, 1.0), st.floats(0.5, 2.0))
def test_what_is_left_is_bounded_and_enough(errors: list[float], bound: float, together_factor: float) -> None:
    """Whatever the errors: at most half of the work, and by the estimate within the bound."""
    whole = together_factor * together(errors)
    layers = layers_of(errors)

    left = choose_layers_to_leave(layers, error=whole, bound=bound)

    if left is not None:
        staying = [layer.error for name, layer in layers.items() if name not in left]
        assert sum(layers[name].share for name in left) <= MOST_LEFT + 1e-9
        assert together_factor * together(staying) <= bound
