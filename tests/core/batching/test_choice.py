"""Who goes next, as a table: no threads, no clock."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batching.choice import DECODE_PATIENCE_S, TEXTS_COME_S, Choice, State, choose, texts_of_a_pass
from core.batching.items import Modality

NOW_S = 1000.0
YOUNG = NOW_S - DECODE_PATIENCE_S / 2
OLD = NOW_S - 2 * DECODE_PATIENCE_S


def shared(**fields: object) -> State:
    """A CPU's state: decoder and device take turns, two decodes at once, 100 ms for an image turn, 8 in a pass."""
    return State(shared=True, max_turn_s=0.1, max_batch=8, **{"decoders": 2, **fields})  # type: ignore[arg-type]


def separate(**fields: object) -> State:
    """A GPU's state."""
    return State(shared=False, max_turn_s=0.1, max_batch=8, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(shared(), Choice.WAIT, id="nothing to do"),
        pytest.param(shared(texts=1), Choice.TEXTS, id="a text alone"),
        pytest.param(shared(ready=1), Choice.IMAGES, id="an image alone is not kept waiting"),
        pytest.param(shared(to_decode=1), Choice.DECODE, id="an image to decode"),
        pytest.param(shared(ready=3, to_decode=1), Choice.DECODE, id="what can be decoded comes along"),
        pytest.param(shared(ready=8, to_decode=1), Choice.IMAGES, id="a full pass waits for nothing"),
        pytest.param(shared(ready=7, decoding_s=[YOUNG]), Choice.WAIT, id="a pass waits for a decode under way"),
        pytest.param(shared(ready=7, decoding_s=[OLD]), Choice.IMAGES, id="but not for one that takes long"),
        pytest.param(shared(decoding_s=[OLD]), Choice.WAIT, id="an old decode alone is no pass"),
        pytest.param(
            shared(ready=7, to_decode=5, decoding_s=[YOUNG]), Choice.WAIT, id="no more is decoded than the pass holds"
        ),
        pytest.param(shared(to_decode=5, decoding_s=[YOUNG, YOUNG]), Choice.WAIT, id="every decoder is busy"),
        pytest.param(shared(to_decode=5, passes=1), Choice.WAIT, id="no decode beside a pass"),
        pytest.param(shared(ready=5, texts=5, passes=1), Choice.WAIT, id="one pass at a time"),
        pytest.param(shared(ready=8, to_decode=9, texts=1), Choice.TEXTS, id="after images a text"),
        pytest.param(shared(to_decode=9, texts=1), Choice.TEXTS, id="a text does not wait for images to be decoded"),
        pytest.param(
            shared(to_decode=9, texts=1, decoding_s=[YOUNG]), Choice.WAIT, id="a text lets a running decode end"
        ),
        pytest.param(shared(texts=1, decoding_s=[OLD]), Choice.TEXTS, id="a text waits for no long decode"),
        pytest.param(
            shared(ready=1, texts=1, text_turn_s=NOW_S - 1, oldest_text_s=NOW_S), Choice.IMAGES, id="after texts images"
        ),
        pytest.param(
            shared(to_decode=1, texts=1, text_turn_s=NOW_S - 1, oldest_text_s=NOW_S),
            Choice.DECODE,
            id="after texts images, which are decoded first",
        ),
        pytest.param(shared(texts=1, text_turn_s=NOW_S - 1), Choice.TEXTS, id="texts again when no image waits"),
        pytest.param(
            shared(texts=1, text_turn_s=NOW_S - 1, oldest_text_s=NOW_S, decoding_s=[OLD]),
            Choice.TEXTS,
            id="texts again while images wait for a long decode alone",
        ),
        pytest.param(
            shared(texts=1, text_turn_s=NOW_S - 1, oldest_text_s=NOW_S, to_decode=5, decoding_s=[OLD, OLD]),
            Choice.TEXTS,
            id="texts again while every decoder has a long one",
        ),
        pytest.param(
            shared(texts=1, text_turn_s=NOW_S - 1, oldest_text_s=NOW_S, decoding_s=[OLD, YOUNG]),
            Choice.WAIT,
            id="after texts images, whose decode ends soon",
        ),
        pytest.param(separate(), Choice.WAIT, id="GPU: nothing to do"),
        pytest.param(separate(ready=1), Choice.IMAGES, id="GPU: an image"),
        pytest.param(separate(ready=1, passes=1), Choice.IMAGES, id="GPU: another device works"),
        pytest.param(separate(ready=1, texts=1), Choice.TEXTS, id="GPU: after images texts"),
        pytest.param(
            separate(ready=1, texts=1, text_turn_s=NOW_S - 1, oldest_text_s=NOW_S), Choice.IMAGES, id="GPU: then images"
        ),
    ],
)
def test_who_goes_next(state: State, expected: Choice) -> None:
    """The whole policy, row by row."""
    assert expected is choose(state, NOW_S)


def contested(texts_s: float, images_s: float, *, oldest_text_s: float) -> State:
    """Both wait, in a turn of the texts; so much time each has had."""
    state = separate(ready=1, texts=1, text_turn_s=NOW_S - 1, oldest_text_s=oldest_text_s)
    state.shares.used_s = {Modality.TEXT: texts_s, Modality.IMAGE: images_s}
    return state


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(contested(1.0, 9.0, oldest_text_s=NOW_S - 2), Choice.TEXTS, id="texts have had a tenth"),
        pytest.param(contested(1.0, 1.0, oldest_text_s=NOW_S - 2), Choice.IMAGES, id="texts have had a half"),
        pytest.param(contested(1.0, 9.0, oldest_text_s=NOW_S), Choice.IMAGES, id="the text came after the turn began"),
    ],
)
def test_a_turn_of_the_texts_may_be_several_passes(state: State, expected: Choice) -> None:
    """For those that waited when it began, while texts have had less than their third."""
    assert expected is choose(state, NOW_S)


@pytest.mark.parametrize(
    ("text_came_s", "image_turn_s", "expected"),
    [
        pytest.param(float("-inf"), None, 8, id="no text: a whole batch"),
        pytest.param(NOW_S - TEXTS_COME_S - 0.001, None, 8, id="no text for a while"),
        pytest.param(NOW_S - TEXTS_COME_S + 0.001, None, 5, id="texts come: what fits into the turn"),
        pytest.param(NOW_S, NOW_S - 0.06, 2, id="decoding has taken its part of the turn"),
        pytest.param(NOW_S, NOW_S - 5.0, 1, id="always one"),
    ],
)
def test_image_passes_are_short_while_texts_come(text_came_s: float, image_turn_s: float | None, expected: int) -> None:
    """With 20 ms an image, a turn of 100 ms has five."""
    state = shared(text_came_s=text_came_s, image_turn_s=image_turn_s)
    state.pace.note(Modality.IMAGE, 10, 0.2001)
    state.max_turn_s = 0.101

    assert expected == state.max_images(NOW_S)


def test_nothing_is_short_on_a_device_of_its_own() -> None:
    """There a pass takes milliseconds, and decoding is somebody else's."""
    state = separate(text_came_s=NOW_S)
    state.pace.note(Modality.IMAGE, 1, 10.0)
    state.pace.note(Modality.TEXT, 1, 10.0)

    assert (8, 999) == (state.max_images(NOW_S), state.max_tokens(999))


def test_text_passes_are_short_while_images_wait_on_a_cpu() -> None:
    """A millisecond a token makes a pass of a hundred; before anything is known, the first passes are small."""
    state, alone = shared(ready=1), shared()

    assert (1, 999) == (state.max_tokens(999), alone.max_tokens(999))
    for known in (state, alone):
        known.pace.note(Modality.TEXT, 100, 0.0999)
    assert (100, 999) == (state.max_tokens(999), alone.max_tokens(999))


@pytest.mark.parametrize("make", [pytest.param(shared, id="CPU"), pytest.param(separate, id="GPU")])
def test_text_passes_leave_waiting_images_their_third(make: Callable[..., State]) -> None:
    """With image turns of 10 ms, a pass of the texts takes 20 at most."""
    state = make(ready=1)
    state.pace.note(Modality.TEXT, 100, 0.0999)
    state.note_image_turn(0.01)

    assert 20 == state.max_tokens(999)


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        pytest.param([12] * 5, [0, 1, 2, 3], id="as many as may"),
        pytest.param([77, 12, 12, 12, 12], [0, 1], id="one long text does not pad the short ones"),
        pytest.param([12, 77, 12, 12], [0, 1], id="nor does one that came second"),
        pytest.param([12, 12, 12, 77, 12], [0, 1, 2, 4], id="a long one among short ones goes later"),
        pytest.param([77, 77, 77], [0, 1], id="no more tokens than allowed"),
        pytest.param([500], [0], id="the oldest always goes"),
    ],
)
def test_texts_of_about_one_width_go_together(widths: list[int], expected: list[int]) -> None:
    """At most four texts, 200 padded tokens, and half of them filled."""
    assert expected == texts_of_a_pass(widths, max_texts=4, max_tokens=200)


@given(st.lists(st.integers(1, 77), min_size=1, max_size=60), st.integers(1, 40), st.integers(1, 3000))
def test_a_text_pass_keeps_its_bounds(widths: list[int], max_texts: int, max_tokens: int) -> None:
    """The oldest is in it, it is within its budgets unless it is the oldest alone, and half of it is text."""
    taken = texts_of_a_pass(widths, max_texts=max_texts, max_tokens=max_tokens)
    padded = len(taken) * max(widths[position] for position in taken)

    assert 0 == taken[0]
    assert sorted(set(taken)) == taken
    assert len(taken) <= max_texts
    assert len(taken) == 1 or padded <= max_tokens
    assert 2 * sum(widths[position] for position in taken) >= padded
