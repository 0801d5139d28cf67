"""How long something stands still, in looks."""

from hypothesis import given
from hypothesis import strategies as st

from core.process.stillness import Stillness

ELAPSED_S = st.floats(min_value=0.0, allow_infinity=False, allow_nan=False)


def test_grows_while_the_token_stays() -> None:
    """The look that sees a token first counts nothing; each later one adds what has passed."""
    stillness = Stillness(1.0)

    assert [0.0, 0.5, 1.25] == [stillness.look(7, elapsed_s) for elapsed_s in (0.25, 0.5, 0.75)]


def test_begins_anew_with_each_change() -> None:
    """Another token, or none, and what came before is forgotten."""
    stillness = Stillness(1.0)
    looks = [stillness.look(token, 1.0) for token in (1, 1, 2, 2, None, None, 2, 2)]

    assert [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0] == looks


@given(st.lists(ELAPSED_S, min_size=1))
def test_pauses_count_as_one_look_each(elapsed: list[float]) -> None:
    """However much time has passed between two looks, they add no more than a round may."""
    stillness = Stillness(1.0)
    for elapsed_s in elapsed:
        stillness.look(1, elapsed_s)

    assert 0.0 <= stillness.still_s <= len(elapsed) - 1
