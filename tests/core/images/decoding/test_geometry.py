"""Views: the box that is resized is what the reference would have cut out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.images.decoding.geometry import Span, Turn, centre_view

SIDES = st.integers(1, 10_000)


@given(SIDES, SIDES)
def test_view_is_the_reference_crop(width: int, height: int) -> None:
    """Scaled as transformers scales, the view begins at a whole pixel, the centre's, and is as large as the model's."""
    target_px = int(224 * max(width, height) / min(width, height))
    view = centre_view(width, height, 224, Turn())
    long, length = (view.x, width) if width > height else (view.y, height)

    assert ((target_px - 224) // 2, 224) == pytest.approx(
        (long.start * target_px / length, long.length * target_px / length)
    )


@given(SIDES, SIDES)
def test_flipped_view_is_the_mirror_image(width: int, height: int) -> None:
    """An odd rest has its larger half on the same side of the upright picture, however it is stored."""
    stored = centre_view(width, height, 224, Turn(flips_x=True))
    upright = centre_view(width, height, 224, Turn())

    assert upright.x.start == pytest.approx(width - stored.x.start - stored.x.length, abs=1e-9)


@given(SIDES, SIDES)
def test_view_lies_in_the_picture(width: int, height: int) -> None:
    """No view begins before the picture or ends behind it by more than a rounding error."""
    view = centre_view(width, height, 224, Turn())

    for span, length in ((view.x, width), (view.y, height)):
        assert span.start >= 0
        assert span.start + span.length <= length * (1 + 1e-12)


@pytest.mark.parametrize(
    ("span", "reach"),
    [
        pytest.param(Span(100, 448), range(95, 553), id="two steps and a pixel of margin"),
        pytest.param(Span(0, 448), range(453), id="not before the picture"),
        pytest.param(Span(552, 448), range(547, 1000), id="not behind the picture"),
        pytest.param(Span(100.5, 22.4), range(97, 126), id="two pixels and one where it is made larger"),
    ],
)
def test_reach_has_the_kernel_s_margin(span: Span, reach: range) -> None:
    """What is cut away has no part in the result."""
    assert reach == span.reach(224, 1000)
