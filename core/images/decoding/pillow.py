"""PNG, WebP, GIF, AVIF and BMP through Pillow: the first frame, flattened to RGB piece by piece. Knows no limits."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, BmpImagePlugin, GifImagePlugin, Image, ImageFile, PngImagePlugin, WebPImagePlugin

from core.images.decoding.geometry import Turn
from core.images.decoding.orientation import turn_of
from core.images.decoding.resizing import Pixels

# Found by content, never by name or Content-Type.
_FORMATS = (
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
)

# libwebp's two canvases, its answer and Pillow's picture, four bytes each.
WEBP_PIXEL_BYTES = 16
# Of an AVIF with deep colours: the planes of all channels, the answer and the picture.
_AVIF_PIXEL_BYTES = 16
# Pillow holds one, two or four bytes per pixel, and PNG, GIF and BMP are decoded line by line.
_MODE_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}
_LARGEST_MODE_PIXEL_BYTES = 4
# The low bytes of a PNG of 16 bits beside the picture, where they are wanted.
_DEEP_KEYED_PIXEL_BYTES = 8
# What Pillow makes of a compressed BMP: an array that grows, its copy and the picture.
_BMP_RLE_PIXEL_BYTES = 3
_BMP_RLE = "bmp_rle"

_WHITE = 255
# Samples of two bytes, the high one first. The other name takes the second one of each.
_DEEP_RGB, _LOW_BYTES_OF_DEEP_RGB = "RGB;16B", "RGB;16L"


@dataclass(frozen=True, slots=True)
class PillowPicture:
    """A picture that Pillow has opened or, after `load`, decoded. Its pixels are given as RGB in pieces."""

    image: ImageFile.ImageFile
    # The second bytes of samples of 16 bits, where all of them say what is transparent.
    low_bytes: ImageFile.ImageFile | None
    # Columns and rows that the first frame of a GIF covers: the rest of its canvas is transparent.
    covered: tuple[range, range]

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @property
    def turn(self) -> Turn:
        """What makes it upright."""
        return turn_of(self.image.info.get("exif") or b"")

    @property
    def decoder_bytes(self) -> int:
        """The most that is held at once while this is decoded, beside the file: measured per kind."""
        pixels = self.width * self.height
        if self.image.format == WebPImagePlugin.WebPImageFile.format:
            return pixels * WEBP_PIXEL_BYTES
        if self.image.format == AvifImagePlugin.AvifImageFile.format:
            return pixels * _AVIF_PIXEL_BYTES
        if self.low_bytes is not None:
            return pixels * _DEEP_KEYED_PIXEL_BYTES
        if any(tile.codec_name == _BMP_RLE for tile in self.image.tile):
            return pixels * _BMP_RLE_PIXEL_BYTES
        return pixels * _MODE_PIXEL_BYTES.get(self.image.mode, _LARGEST_MODE_PIXEL_BYTES)

    def load(self) -> None:
        """Decode the first frame. Raises whatever a decoder raises."""
        self.image.load()
        if self.low_bytes is not None:
            self.low_bytes.load()

    def rgb(self, columns: range, rows: range) -> Pixels:
        box = (columns.start, rows.start, columns.stop, rows.stop)
        piece = self.image.crop(box)
        if self.low_bytes is not None:
            return _without_key(np.asarray(piece), np.asarray(self.low_bytes.crop(box)), piece.info["transparency"])
        return self._on_white(np.asarray(_flatten(piece)), columns, rows)

    def _on_white(self, rgb: Pixels, columns: range, rows: range) -> Pixels:
        if self.covered == (range(self.width), range(self.height)):
            return rgb
        covered_columns, covered_rows = self.covered
        white = np.full_like(rgb, _WHITE)
        part = np.s_[_overlap(covered_rows, rows), _overlap(covered_columns, columns)]
        white[part] = rgb[part]
        return white


def open_picture(data: bytes) -> PillowPicture:
    """Read the head. A WebP's canvas is allocated here: check it before. Raises whatever a decoder raises."""
    image = _open(data)
    covered = range(image.width), range(image.height)
    if image.format == GifImagePlugin.GifImageFile.format:
        left, top, right, bottom = image.tile[0].extents or (0, 0, *image.size)
        covered = range(left, right), range(top, bottom)
    return PillowPicture(image, _low_bytes(data) if _is_deep_and_keyed(image) else None, covered)


def _open(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _is_deep_and_keyed(image: ImageFile.ImageFile) -> bool:
    return "transparency" in image.info and bool(image.tile) and image.tile[0].args == _DEEP_RGB


def _low_bytes(data: bytes) -> ImageFile.ImageFile:
    """A picture of the bytes that Pillow drops of a PNG with 16 bits."""
    image = _open(data)
    image.tile = [tile._replace(args=_LOW_BYTES_OF_DEEP_RGB) for tile in image.tile]
    return image


def _overlap(covered: range, asked: range) -> slice:
    return slice(max(covered.start - asked.start, 0), max(covered.stop - asked.start, 0))


def _flatten(image: Image.Image) -> Image.Image:
    """Return RGB; transparency is composited on white, 16 bits are cut to 8."""
    if image.mode.startswith("I"):
        return Image.fromarray(_grey(np.asarray(image), image.info.get("transparency"))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _grey(deep: npt.NDArray[np.integer[Any]], transparent: int | None) -> Pixels:
    grey = (deep.astype(np.uint32) >> 8).astype(np.uint8)
    if transparent is not None:
        grey[deep == transparent] = _WHITE
    return grey


def _without_key(high: Pixels, low: Pixels, transparent: tuple[int, int, int]) -> Pixels:
    key = np.array(transparent)
    keyed = ((high == key >> 8) & (low == key & 0xFF)).all(axis=2)
    return np.where(keyed[..., None], np.uint8(_WHITE), high)
