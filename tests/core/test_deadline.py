"""Deadlines: what a caller may ask for, and that a cancelled one has passed."""

import pytest

from core.deadline import Cancellation, Deadline, parse_timeout_ms
from core.errors import ValidationFailed


def test_cancelled_deadline_has_passed() -> None:
    """Whoever asks it stops, as if the time were over."""
    cancellation = Cancellation()
    deadline = Deadline.after(60.0, cancellation)
    before = deadline.expired
    cancellation.cancel()

    assert (False, True, 0.0) == (before, deadline.expired, deadline.remaining_s())


def test_cancellation_does_not_change_the_order() -> None:
    """The sooner of two is told by time alone."""
    assert Deadline(1.0, Cancellation()) < Deadline(2.0)


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        pytest.param(None, None, id="not given"),
        pytest.param(1, 1, id="least"),
        pytest.param("1500", 1500, id="digits"),
        pytest.param(999_999_999, 999_999_999, id="most"),
    ],
)
def test_timeout(value: object, expected_ms: int | None) -> None:
    """An integer, or its digits as a header has them."""
    assert expected_ms == parse_timeout_ms(value, "timeout_ms")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(0, id="zero"),
        pytest.param("0", id="zero as text"),
        pytest.param(-1, id="negative"),
        pytest.param("+1", id="sign"),
        pytest.param(" 1", id="space"),
        pytest.param("1.5", id="fraction as text"),
        pytest.param(1.5, id="fraction"),
        pytest.param(True, id="boolean"),
        pytest.param("\u0661", id="Arabic digit"),
        pytest.param("", id="empty"),
        pytest.param("1000000000", id="ten digits"),
        pytest.param(10**5000, id="too long for int's own text"),
        pytest.param([], id="list"),
    ],
)
def test_wrong_timeout(value: object) -> None:
    """Anything else is refused with the name of what is wrong."""
    with pytest.raises(ValidationFailed, match="timeout_ms: "):
        parse_timeout_ms(value, "timeout_ms")
