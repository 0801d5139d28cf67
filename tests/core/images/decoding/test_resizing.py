"""The resize: the same pixels whether the picture comes whole or in bands, and Pillow's up to one grey level."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from core.images.decoding.geometry import Span, Turn, View, centre_view
from core.images.decoding.resizing import Pixels, resize
from tools.testbed.pictures import natural

BICUBIC = Image.Resampling.BICUBIC


@dataclass
class Recorded:
    """A picture that remembers how much of it was asked for at once."""

    image: Image.Image
    pieces: list[int] = field(default_factory=list)

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    def rgb(self, columns: range, rows: range) -> Pixels:
        self.pieces.append(len(columns) * len(rows))
        return np.asarray(self.image)[rows.start : rows.stop, columns.start : columns.stop]


def checked(width: int, height: int) -> Image.Image:
    """Black and white squares of seven pixels on noise: overshoots are clipped between the passes."""
    squares = (np.arange(width) // 7 + np.arange(height)[:, None] // 7) % 2 * 255
    return Image.blend(natural(width, height), Image.fromarray(squares.astype(np.uint8)).convert("RGB"), 0.8)


@pytest.mark.parametrize("columns_first", [False, True], ids=["rows first", "columns first"])
@pytest.mark.parametrize(
    ("width", "height"),
    [
        pytest.param(300, 300, id="small"),
        pytest.param(2200, 1800, id="several bands"),
        pytest.param(900, 4000, id="tall"),
        pytest.param(4000, 900, id="wide"),
        pytest.param(40, 31, id="made larger"),
    ],
)
def test_equals_pillow_with_the_passes_in_order(width: int, height: int, columns_first: bool) -> None:
    """Only the box is read, in bands, and hard edges come out as from Pillow with the same pass first."""
    image = checked(width, height)
    view = centre_view(width, height, 224, Turn())
    x, y = view.x, view.y
    box = (x.start, y.start, x.start + x.length, y.start + y.length)
    if columns_first:
        expected = image.resize((width, 224), BICUBIC, box=(0, box[1], width, box[3]))
        expected = expected.resize((224, 224), BICUBIC, box=(box[0], 0, box[2], 224))
    else:
        expected = image.resize((224, height), BICUBIC, box=(box[0], 0, box[2], height))
        expected = expected.resize((224, 224), BICUBIC, box=(0, box[1], 224, box[3]))
    picture = Recorded(image)

    pixels = resize(picture, view, 224, columns_first=columns_first)

    assert 1 >= np.abs(pixels.astype(int) - np.asarray(expected)).max()
    assert max(picture.pieces) <= 1_000_000


def test_a_box_may_begin_between_pixels() -> None:
    """Half a pixel of the source is half a step of a ramp."""
    ramp = Image.fromarray(np.tile(np.arange(0, 250, dtype=np.uint8), (250, 1))).convert("RGB")

    pixels = resize(Recorded(ramp), View(Span(10.5, 224), Span(0, 224)), 224, columns_first=False)

    assert list(range(11, 235)) == pixels[0, :, 0].tolist()
