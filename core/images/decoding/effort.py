"""How long a file will about take to decode, from its head alone: so that long ones can be done apart from the others.

A guess, and no limit: what it says decides where a file is decoded, not whether. For any bytes it returns a number.
"""

import struct

from core.errors import InvalidImage
from core.images.decoding import jpeg
from core.images.decoding.containers import webp_canvas

# Processor time per pixel, resize included: the worst that was seen of each format (`python -m bench.pixels` for one).
_JPEG_PIXEL_NS = 3.0
_JPEG_FURTHER_SCAN_NS = 0.85
_PNG_PIXEL_NS = 24.0
_WEBP_PIXEL_NS = 20.0
_GIF_PIXEL_NS = 8.0
_AVIF_PIXEL_NS = 10.0
_BMP_PIXEL_NS = 20.0
# Pillow does these in Python: the pixels one by one, and the runs.
_BMP_RLE_PIXEL_NS, _BMP_RLE_BYTE_NS = 90.0, 140.0

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GIF_SIGNATURE = b"GIF8"
_AVIF_BRAND = b"ftypavi"
_BMP_SIGNATURE = b"BM"
# Behind the length of the head, of which the shortest has sides of 16 bits and no compression.
_BMP_HEAD_LENGTH, _BMP_SIDES, _BMP_COMPRESSION = 14, 18, 30
_BMP_SHORT_HEAD_BYTES = 12
_BMP_RLE = (1, 2)
# The box with a picture's size stands among the first ones; a file of tiles has one for each and one for all.
_AVIF_SIZE, _AVIF_HEAD_BYTES = b"ispe", 65_536


def expected_decode_s(data: bytes) -> float:
    """Seconds of processor time; 0.0 for what is no image, and is refused at once."""
    if data.startswith(jpeg.SIGNATURE):
        return _of_jpeg(data)
    if data.startswith(_PNG_SIGNATURE):
        return _seconds(_sides(">II", data, 16), _PNG_PIXEL_NS)
    if data.startswith(_GIF_SIGNATURE):
        return _seconds(_sides("<HH", data, 6), _GIF_PIXEL_NS)
    if (canvas := webp_canvas(data)) is not None:
        return _seconds(canvas, _WEBP_PIXEL_NS)
    if data.startswith(_BMP_SIGNATURE):
        return _of_bmp(data)
    return _of_avif(data) if data[4:11] == _AVIF_BRAND else 0.0


def _of_jpeg(data: bytes) -> float:
    try:
        head = jpeg.read_head(data)
    except InvalidImage:
        return 0.0
    # Those in a preview that the file carries are counted too, which does no harm.
    further_scans = max(0, data.count(jpeg.SCAN_MARKER) - 1)
    return _seconds((head.width, head.height), _JPEG_PIXEL_NS + further_scans * _JPEG_FURTHER_SCAN_NS)


def _of_bmp(data: bytes) -> float:
    if data[_BMP_HEAD_LENGTH : _BMP_HEAD_LENGTH + 4] == _BMP_SHORT_HEAD_BYTES.to_bytes(4, "little"):
        return _seconds(_sides("<HH", data, _BMP_SIDES), _BMP_PIXEL_NS)
    width, height = _sides("<ii", data, _BMP_SIDES)
    # From the top down when it is negative.
    sides = max(width, 0), abs(height)
    if int.from_bytes(data[_BMP_COMPRESSION : _BMP_COMPRESSION + 4], "little") in _BMP_RLE:
        return _seconds(sides, _BMP_RLE_PIXEL_NS) + len(data) * _BMP_RLE_BYTE_NS / 1e9
    return _seconds(sides, _BMP_PIXEL_NS)


def _of_avif(data: bytes) -> float:
    seconds, position = 0.0, data.find(_AVIF_SIZE, 0, _AVIF_HEAD_BYTES)
    while position >= 0:
        # Behind the name are version and flags.
        seconds = max(seconds, _seconds(_sides(">II", data, position + 8), _AVIF_PIXEL_NS))
        position = data.find(_AVIF_SIZE, position + 4, _AVIF_HEAD_BYTES)
    return seconds


def _sides(form: str, data: bytes, position: int) -> tuple[int, int]:
    if len(data) < position + struct.calcsize(form):
        return (0, 0)
    width, height = struct.unpack_from(form, data, position)
    return width, height


def _seconds(sides: tuple[int, int], pixel_ns: float) -> float:
    return sides[0] * sides[1] * pixel_ns / 1e9
