"""PNG, WebP, GIF and AVIF through Pillow: the first frame, flattened to RGB piece by piece. Knows no limits."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import AvifImagePlugin, GifImagePlugin, Image, PngImagePlugin, WebPImagePlugin

from core.images.decoding.geometry import Turn
from core.images.decoding.orientation import turn_of
from core.images.decoding.resizing import Pixels

# Found by content, never by name or Content-Type.
_FORMATS = (
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
)

# libwebp's two canvases, its answer and Pillow's picture, four bytes each.
WEBP_PIXEL_BYTES = 16
# Of an AVIF with deep colours: the planes of all channels, the answer and the picture.
_AVIF_PIXEL_BYTES = 16
# Pillow holds one, two or four bytes per pixel, and PNG and GIF are decoded line by line.
_MODE_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}
_LARGEST_MODE_PIXEL_BYTES = 4


@dataclass(frozen=True, slots=True)
class PillowPicture:
    """A picture that Pillow has opened or, after `load`, decoded. Its pixels are given as RGB in pieces."""

    image: Image.Image

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
        """The most that is held at once while this is decoded, beside the file: measured per format and mode."""
        pixels = self.width * self.height
        if self.image.format == WebPImagePlugin.WebPImageFile.format:
            return pixels * WEBP_PIXEL_BYTES
        if self.image.format == AvifImagePlugin.AvifImageFile.format:
            return pixels * _AVIF_PIXEL_BYTES
        return pixels * _MODE_PIXEL_BYTES.get(self.image.mode, _LARGEST_MODE_PIXEL_BYTES)

    def load(self) -> None:
        """Decode the first frame. Raises whatever a decoder raises."""
        self.image.load()

    def rgb(self, columns: range, rows: range) -> Pixels:
        piece = self.image.crop((columns.start, rows.start, columns.stop, rows.stop))
        return np.asarray(_flatten(piece))


def open_picture(data: bytes) -> PillowPicture:
    """Read the head. A WebP's canvas is allocated here: check it before. Raises whatever a decoder raises."""
    return PillowPicture(Image.open(io.BytesIO(data), formats=_FORMATS))


def _flatten(image: Image.Image) -> Image.Image:
    """Return RGB; transparency is composited on white, 16 bits are cut to 8."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
