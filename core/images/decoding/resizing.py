"""Antialiased bicubic resize of one view of a picture, in two passes and in bands. Knows no file format.

Each pass is fast_image_resize's Catmull-Rom in 8 bits. In one call the library would do columns first; CLIP's
reference does rows first, and what an overshoot clips between the passes then differs by up to eight grey levels.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cykooz_resizer import (  # type: ignore[import-untyped]
    CropBox,
    FilterType,
    ImageData,
    PixelType,
    ResizeAlg,
    ResizeOptions,
    Resizer,
)

from core.images.decoding.geometry import Span, View

Pixels = npt.NDArray[np.uint8]

# What is converted to RGB at once: a picture is never held twice, whatever its mode needs on the way.
_BAND_PIXELS = 1_000_000


class Picture(Protocol):
    """A decoded picture that gives its pixels in pieces."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def rgb(self, columns: range, rows: range) -> Pixels:
        """uint8 (len(rows), len(columns), 3)."""


def resize(picture: Picture, view: View, size_px: int, *, columns_first: bool) -> Pixels:
    """Return what `view` shows as uint8 (size_px, size_px, 3), rows resized first unless `columns_first`."""
    columns = view.x.reach(size_px, picture.width)
    rows = view.y.reach(size_px, picture.height)
    x, y = view.x.after(columns.start), view.y.after(rows.start)
    if columns_first:
        narrow = [_resize_columns(picture.rgb(band, rows), y, size_px) for band in _bands(columns, len(rows))]
        return _resize_rows(np.concatenate(narrow, axis=1), x, size_px)
    flat = [_resize_rows(picture.rgb(columns, band), x, size_px) for band in _bands(rows, len(columns))]
    return _resize_columns(np.concatenate(flat), y, size_px)


def _bands(lines: range, line_px: int) -> Iterator[range]:
    step = max(_BAND_PIXELS // line_px, 1)
    for start in range(lines.start, lines.stop, step):
        yield range(start, min(start + step, lines.stop))


def _resize_rows(rgb: Pixels, span: Span, size_px: int) -> Pixels:
    height, width = rgb.shape[:2]
    return _resample(rgb, CropBox(span.start, 0, min(span.length, width - span.start), height), (size_px, height))


def _resize_columns(rgb: Pixels, span: Span, size_px: int) -> Pixels:
    height, width = rgb.shape[:2]
    return _resample(rgb, CropBox(0, span.start, width, min(span.length, height - span.start)), (width, size_px))


def _resample(rgb: Pixels, box: CropBox, size: tuple[int, int]) -> Pixels:
    source = ImageData(rgb.shape[1], rgb.shape[0], PixelType.U8x3, rgb.tobytes())
    target = ImageData(*size, PixelType.U8x3)
    # Without a thread pool of its own it works on the caller's thread alone.
    Resizer().resize(source, target, ResizeOptions(ResizeAlg.convolution(FilterType.catmull_rom), crop_box=box))
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size[1], size[0], 3)
