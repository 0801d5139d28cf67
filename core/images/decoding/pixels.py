"""Image bytes to model pixels: check, decode, resize, crop, turn upright. Knows neither network nor model, nor torch.

The rules are CLIP's reference: RGB, shortest side to the model's size with antialiased bicubic, centre crop.
JPEG goes through libjpeg-turbo, everything else through Pillow. Values stay uint8: the engine normalises on its device.
"""

import logging
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from core.errors import ImageError, ImageTooLarge, InvalidImage
from core.images.decoding import jpeg, pillow
from core.images.decoding.containers import webp_canvas, without_metadata
from core.images.decoding.geometry import Turn, View, centre_view
from core.images.decoding.resizing import Picture, Pixels, resize

# A 1x65535 image passes every pixel limit, and hardly anything of it would be seen.
MAX_SIDE_RATIO = 50

# What 50 megapixels need in the most expensive format, WebP, at 16 bytes each. A process that decodes is given more:
# the file, its copies and the interpreter come on top.
DEFAULT_MAX_DECODER_BYTES = 768 * 1024 * 1024

# How libjpeg-turbo and libavif put it, in exceptions that can mean anything. libwebp's and dav1d's do not say.
_OUT_OF_MEMORY = re.compile("insufficient memory|out of memory", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PixelDecoder:
    """`size_px` is the model's input side; the two limits hold before anything is decoded.

    `max_pixels` bounds width times height, `max_decoder_bytes` what decoding them takes in this format.
    """

    size_px: int
    max_pixels: int
    max_decoder_bytes: int = DEFAULT_MAX_DECODER_BYTES

    def decode(self, data: bytes) -> Pixels:
        """Return uint8 pixels of shape (3, size_px, size_px), RGB, C-contiguous.

        Raises `InvalidImage` for what cannot be decoded, is cut off or of a format not on the list, and
        `ImageTooLarge` when the pixels, the side ratio or the memory are over the limit. For any bytes, nothing else.
        """
        try:
            return self._decode_jpeg(data) if data.startswith(jpeg.SIGNATURE) else self._decode_other(data)
        except ImageError:
            raise
        except MemoryError as error:
            raise self._needs_too_much_memory() from error
        except UnidentifiedImageError as error:
            raise InvalidImage("the data is not an image of a supported format") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageTooLarge("the image has too many pixels") from error
        except Exception as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise self._needs_too_much_memory() from error
            # Decoders raise anything on hostile bytes: SyntaxError, struct.error, KeyError, OSError.
            logger.info("an image was refused", extra={"cause": type(error).__name__})
            raise InvalidImage from error

    def _decode_jpeg(self, data: bytes) -> Pixels:
        head = jpeg.read_head(data)
        self._check_size(head.width, head.height)
        scale = jpeg.scale_for(head, self.size_px)
        self._check_memory(jpeg.decoder_bytes(head, scale))
        # Of the original, not of the reduced size: that is rounded, and a quarter of all sizes would lose a pixel.
        view = centre_view(head.width, head.height, self.size_px, head.turn)
        picture = _ArrayPicture(jpeg.decode(data, head, scale))
        return self._see(picture, view.scaled(scale / jpeg.FULL_SCALE), head.turn)

    def _decode_other(self, data: bytes) -> Pixels:
        data = without_metadata(data)
        if (canvas := webp_canvas(data)) is not None:
            self._check_size(*canvas)
            self._check_memory(canvas[0] * canvas[1] * pillow.WEBP_PIXEL_BYTES)
        picture = pillow.open_picture(data)
        self._check_size(picture.width, picture.height)
        self._check_memory(picture.decoder_bytes)
        picture.load()
        view = centre_view(picture.width, picture.height, self.size_px, picture.turn)
        return self._see(picture, view, picture.turn)

    def _check_size(self, width: int, height: int) -> None:
        short, long = sorted((width, height))
        if short < 1:
            raise InvalidImage("the image has no pixels")
        if width * height > self.max_pixels:
            raise ImageTooLarge(f"the image has more than {self.max_pixels} pixels")
        if long > short * MAX_SIDE_RATIO:
            raise ImageTooLarge(f"one side of the image is more than {MAX_SIDE_RATIO} times the other")

    def _check_memory(self, decoder_bytes: int) -> None:
        if decoder_bytes > self.max_decoder_bytes:
            raise self._needs_too_much_memory()

    def _needs_too_much_memory(self) -> ImageTooLarge:
        return ImageTooLarge(f"decoding the image needs more memory than {self.max_decoder_bytes} bytes")

    def _see(self, picture: Picture, view: View, turn: Turn) -> Pixels:
        rgb = resize(picture, view, self.size_px, columns_first=turn.transposes)
        return np.ascontiguousarray(_turned(rgb, turn).transpose(2, 0, 1))


@dataclass(frozen=True, slots=True)
class _ArrayPicture:
    """A picture that is RGB already: uint8 (height, width, 3)."""

    pixels: Pixels

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def rgb(self, columns: range, rows: range) -> Pixels:
        return self.pixels[rows.start : rows.stop, columns.start : columns.stop]


def _turned(rgb: Pixels, turn: Turn) -> Pixels:
    flipped = rgb[:: -1 if turn.flips_y else 1, :: -1 if turn.flips_x else 1]
    return flipped.transpose(1, 0, 2) if turn.transposes else flipped
