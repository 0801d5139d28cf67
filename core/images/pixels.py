"""Image bytes to model pixels: decode, orient, flatten, resize, crop. Knows neither network nor model.

The rules are CLIP's reference: RGB, shortest side to the model's size with antialiased bicubic, centre crop.
JPEG goes through libjpeg-turbo, everything else through Pillow; both are resized by torch's uint8 kernel, which
differs from Pillow's by 0.01 grey levels on average. Values stay uint8: the engine normalises on its device.
"""

import io
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
import torch
from PIL import (
    AvifImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from core.errors import ImageTooLarge, InvalidImage

# Part of the fingerprint: raise it when the same bytes would give other pixels.
PIXEL_RULES_VERSION = 1

logger = logging.getLogger(__name__)

# Found by content, never by name or Content-Type.
_FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
)

# A JPEG with further pictures behind the first, as phones write it, is opened as MPO.
_JPEG_FORMATS = {JpegImagePlugin.JpegImageFile.format, MpoImagePlugin.MpoImageFile.format}

# A 1x65535 image passes every pixel limit, and resizing its short side to 224 would want 10 GB.
MAX_SIDE_RATIO = 50

# Decoding at a reduced DCT scale keeps at least this many times the target size: 0.2-0.4 grey levels of difference.
_REDUCED_SCALE_FACTOR = 2

# EXIF orientation -> (number of quarter turns counter-clockwise, mirror left-right afterwards).
_ORIENTATIONS = {
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (3, True),
    6: (3, False),
    7: (1, True),
    8: (1, False),
}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PixelDecoder:
    """`size_px` is the model's input side; `max_pixels` bounds width times height before anything is decoded."""

    size_px: int
    max_pixels: int

    def decode(self, data: bytes) -> Pixels:
        """Return uint8 pixels of shape (3, size_px, size_px), RGB.

        Raises `InvalidImage` for what cannot be decoded, is cut off or of a format not on the list, and
        `ImageTooLarge` when the pixels or the side ratio are over the limit. For any bytes, nothing else.
        """
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                self._check_size(*image.size)
                rgb = self._decode_rgb(image, data)
        except (ImageTooLarge, InvalidImage):
            raise
        except UnidentifiedImageError as error:
            raise InvalidImage("the data is not an image of a supported format") from error
        except Image.DecompressionBombError as error:
            raise ImageTooLarge("the image has too many pixels") from error
        except Exception as error:
            # Decoders raise anything on hostile bytes: SyntaxError, struct.error, KeyError, OSError.
            logger.info("an image was refused", extra={"cause": type(error).__name__})
            raise InvalidImage from error
        return self._resize_and_crop(rgb)

    def _check_size(self, width: int, height: int) -> None:
        short, long = sorted((width, height))
        if short < 1:
            raise InvalidImage("the image has no pixels")
        if width * height > self.max_pixels:
            raise ImageTooLarge(f"the image has more than {self.max_pixels} pixels")
        if long > short * MAX_SIDE_RATIO:
            raise ImageTooLarge(f"one side of the image is more than {MAX_SIDE_RATIO} times the other")

    def _decode_rgb(self, image: Image.Image, data: bytes) -> Pixels:
        """Return uint8 (height, width, 3), upright."""
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if image.format in _JPEG_FORMATS and image.mode in ("RGB", "L"):
            return _turn(self._decode_jpeg(data), orientation)
        # A copy, because torch wants to own what it reads and Pillow's memory is read-only.
        return _turn(np.array(_flatten(image)), orientation)

    def _decode_jpeg(self, data: bytes) -> Pixels:
        least = self.size_px * _REDUCED_SCALE_FACTOR
        # Strict: what libjpeg only warns of (a cut-off file, a broken block) would become grey pixels.
        rgb: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least, strict=True)
        return rgb

    def _resize_and_crop(self, rgb: Pixels) -> Pixels:
        height, width = rgb.shape[:2]
        short = min(height, width)
        target = (self.size_px * height // short, self.size_px * width // short)
        # (1, 3, height, width) as a view of (height, width, 3): torch's fast path for uint8 wants channels last.
        tensor = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).unsqueeze(0)
        if target != (height, width):
            tensor = torch.nn.functional.interpolate(tensor, size=target, mode="bicubic", antialias=True)
        top, left = (target[0] - self.size_px) // 2, (target[1] - self.size_px) // 2
        crop = tensor[0, :, top : top + self.size_px, left : left + self.size_px]
        pixels: Pixels = crop.contiguous().numpy()
        return pixels


def _flatten(image: Image.Image) -> Image.Image:
    """Return the first frame as RGB; transparency is composited on white, 16 bits are cut to 8."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _turn(rgb: Pixels, orientation: Any) -> Pixels:  # noqa: ANN401 - EXIF holds whatever the file says
    quarter_turns, mirrored = _ORIENTATIONS.get(orientation, (0, False))
    turned = np.rot90(rgb, quarter_turns)
    return np.fliplr(turned) if mirrored else turned
