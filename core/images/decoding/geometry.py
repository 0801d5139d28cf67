"""Where the model looks: CLIP's resize and centre crop as a box in the stored picture. Knows sizes, never pixels.

The reference scales the short side to the model's size, rounds the long one down and cuts the centre out. The same
pixels come from scaling only the box that ends up in the crop, so what lies outside is never touched.
"""

import math
from dataclasses import dataclass

# Catmull-Rom, which is Pillow's bicubic, looks two pixels to each side, or two steps when it makes a picture smaller.
_KERNEL_RADIUS = 2


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one axis, in pixels of the source; fractions are parts of a pixel."""

    start: float
    length: float

    def scaled(self, factor: float) -> "Span":
        """The same stretch of a picture that is `factor` times as large."""
        return Span(self.start * factor, self.length * factor)

    def after(self, offset: int) -> "Span":
        """The same stretch of a picture from which the first `offset` pixels were cut."""
        return Span(self.start - offset, self.length)

    def reach(self, size_px: int, available: int) -> range:
        """The pixels that have a part in it when it is scaled to `size_px`."""
        margin = _KERNEL_RADIUS * max(self.length / size_px, 1) + 1
        first = math.floor(self.start - margin)
        return range(max(first, 0), min(math.ceil(self.start + self.length + margin), available))


@dataclass(frozen=True, slots=True)
class View:
    """What the model sees of a picture as it is stored, before it is turned upright."""

    x: Span
    y: Span

    def scaled(self, factor: float) -> "View":
        """The same view of a picture that is `factor` times as large."""
        return View(self.x.scaled(factor), self.y.scaled(factor))


@dataclass(frozen=True, slots=True)
class Turn:
    """How a stored picture becomes upright: the flips first, then the exchange of rows and columns."""

    flips_x: bool = False
    flips_y: bool = False
    transposes: bool = False


def centre_view(width: int, height: int, size_px: int, turn: Turn) -> View:
    """The view that CLIP's reference gives of the upright picture; `width` and `height` are the stored ones.

    https://github.com/huggingface/transformers: `get_resize_output_image_size` with `shortest_edge`, `center_crop`.
    """
    short = min(width, height)
    return View(_centre(width, short, size_px, turn.flips_x), _centre(height, short, size_px, turn.flips_y))


def _centre(length: int, short: int, size_px: int, flipped: bool) -> Span:
    target = size_px * length // short
    before = (target - size_px) // 2
    if flipped:
        # An odd rest cannot be halved, and which side gets more is decided in the upright picture.
        before = target - size_px - before
    return Span(before * length / target, size_px * length / target)
