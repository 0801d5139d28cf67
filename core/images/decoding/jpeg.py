"""JPEG: the head is read here, the pixels by libjpeg-turbo. Pillow never sees one, nor does its EXIF reader.

What no real picture has is refused before anything is decoded: a progressive file of 200 kB can hold 11,000 scans,
each of which goes over the whole picture, and one of 10 MB half a million segments.
"""

import re
import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

from core.errors import InvalidImage
from core.images.decoding.geometry import Turn
from core.images.decoding.orientation import EXIF_PREFIX, turn_of
from core.images.decoding.resizing import Pixels

SIGNATURE = b"\xff\xd8\xff"

# The most in 8,190 test images were 53, metadata included. A hundred scans of 50 megapixels take four seconds.
MAX_SCANS = 100
# Before the first scan no test image had more than 18; a large colour profile or an XMP block adds some hundreds.
MAX_SEGMENTS = 1000
# Between segments a file may be padded, and some writers align their segments.
MAX_STRAY_BYTES = 65_536

# A reduced decode keeps at least this many times the target size: 0.2-0.4 grey levels of difference.
_LEAST_OF_TARGET = 2
# Eighths of the size that libjpeg-turbo is fast at. The ones between are slower than full size.
_SCALES = (1, 2, 4)
FULL_SCALE = 8

_MARKER = re.compile(rb"\xff[\x01-\xfe]")
# Inside a scan a zero is a stuffed byte, and restarts belong to the data.
_MARKER_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTARTS = range(0xD0, 0xD8)
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
# With a length and a content that libjpeg knows or skips; it refuses every other.
_SEGMENTS = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, _SCAN, 0xFE} | {*range(0xE0, 0xF0)}
SCAN_MARKER = b"\xff\xda"
_MARKER_BYTES = 2
_LENGTH_BYTES = 2

_CMYK_COMPONENTS = 4
_COMPONENTS = {1, 3, _CMYK_COMPONENTS}
_COEFFICIENT_BYTES = 2
_RGB_PIXEL_BYTES = 3
# The inks, the inks turned round and RGB as Pillow holds it, and RGB as an array, copied once.
_CMYK_PIXEL_BYTES = 4 + 4 + 4 + 3 + 3


@dataclass(frozen=True, slots=True)
class Jpeg:
    """The head of a JPEG: what decides whether and how it is decoded. `turn` makes it upright."""

    width: int
    height: int
    components: int
    turn: Turn


@dataclass(frozen=True, slots=True)
class _Frame:
    width: int
    height: int
    components: int
    progressive: bool


def read_head(data: bytes) -> Jpeg:
    """Read everything before the first scan. Raises `InvalidImage` for what is broken or over a limit."""
    position, stray_bytes = 2, 0
    frame: _Frame | None = None
    turn: Turn | None = None
    for _ in range(MAX_SEGMENTS):
        marker, start = _next_marker(data, position, MAX_STRAY_BYTES - stray_bytes)
        stray_bytes += start - _MARKER_BYTES - position
        if marker in _RESTARTS:
            position = start
            continue
        if marker not in _SEGMENTS:
            raise InvalidImage("the JPEG has a segment of an unknown kind")
        position = _end_of_segment(data, start)
        content = data[start + 2 : position]
        if marker in _FRAMES:
            if frame is not None:
                raise InvalidImage("the JPEG has several frames")
            frame = _read_frame(marker, content)
        elif marker == _APP1 and turn is None and content.startswith(EXIF_PREFIX):
            turn = turn_of(content)
        elif marker == _SCAN:
            return _checked(data, position, content, frame, turn or Turn())
    raise InvalidImage(f"the JPEG has more than {MAX_SEGMENTS} segments")


def scale_for(head: Jpeg, size_px: int) -> int:
    """The smallest scale, in eighths, that keeps twice `size_px` of the short side."""
    wanted = _LEAST_OF_TARGET * size_px * FULL_SCALE
    return next((scale for scale in _SCALES if min(head.width, head.height) * scale >= wanted), FULL_SCALE)


def decode(data: bytes, head: Jpeg, scale: int) -> Pixels:
    """Return uint8 (height, width, 3) as stored, at `scale` eighths of the size, rounded up.

    Raises ValueError for what libjpeg merely warns of: a cut-off file or a broken block would become grey pixels.
    """
    if simplejpeg.decode_jpeg_header(data)[:2] != (head.height, head.width):
        raise InvalidImage("the JPEG has not the size that its head says")
    pixels: Pixels = simplejpeg.decode_jpeg(
        data,
        "CMYK" if head.components == _CMYK_COMPONENTS else "RGB",
        min_height=_scaled(head.height, scale),
        min_width=_scaled(head.width, scale),
        strict=True,
    )
    return _rgb_of_cmyk(pixels) if head.components == _CMYK_COMPONENTS else pixels


def decoder_bytes(head: Jpeg, scale: int) -> int:
    """The most that `decode` holds at once: every coefficient, as several scans need them, and the pixels."""
    coefficients = head.width * head.height * head.components * _COEFFICIENT_BYTES
    pixels = _scaled(head.width, scale) * _scaled(head.height, scale)
    return coefficients + pixels * (_CMYK_PIXEL_BYTES if head.components == _CMYK_COMPONENTS else _RGB_PIXEL_BYTES)


def _scaled(side: int, scale: int) -> int:
    return -(-side * scale // FULL_SCALE)


def _next_marker(data: bytes, position: int, stray_bytes: int) -> tuple[int, int]:
    """Return the marker and where its segment starts, at most `stray_bytes` further on."""
    found = _MARKER.search(data, position, position + stray_bytes + _MARKER_BYTES)
    if found is None:
        raise InvalidImage("the JPEG ends, or is padded, before its first scan")
    return data[found.start() + 1], found.end()


def _end_of_segment(data: bytes, start: int) -> int:
    length = int.from_bytes(data[start : start + 2])
    if length < _LENGTH_BYTES or start + length > len(data):
        raise InvalidImage("the JPEG has a broken segment")
    return start + length


def _read_frame(marker: int, content: bytes) -> _Frame:
    try:
        height, width, components = struct.unpack_from(">xHHB", content)
    except struct.error as error:
        raise InvalidImage("the JPEG has a broken frame") from error
    if components not in _COMPONENTS:
        raise InvalidImage(f"the JPEG has {components} components")
    return _Frame(width, height, components, marker in _PROGRESSIVE)


def _checked(data: bytes, position: int, scan: bytes, frame: _Frame | None, turn: Turn) -> Jpeg:
    if frame is None or not scan:
        raise InvalidImage("the JPEG has a scan without a frame")
    # One scan with everything in it is all that libjpeg reads of a file that is not progressive.
    if frame.progressive or scan[0] < frame.components:
        _refuse_many_scans(data, position)
    return Jpeg(frame.width, frame.height, frame.components, turn)


def _refuse_many_scans(data: bytes, position: int) -> None:
    """`position` is where the first scan's data begin."""
    if data.count(SCAN_MARKER, position) < MAX_SCANS:
        return
    # Exactly: behind the picture there may be others, or a film, which hold these two bytes by chance.
    scans = 1
    for _ in range(MAX_SEGMENTS):
        found = _MARKER_AFTER_SCAN.search(data, position)
        if found is None or data[found.end() - 1] == _END:
            return
        scans += data[found.end() - 1] == _SCAN
        if scans > MAX_SCANS:
            raise InvalidImage(f"the JPEG has more than {MAX_SCANS} scans")
        position = _end_of_segment(data, found.end())
    raise InvalidImage(f"the JPEG has more than {MAX_SEGMENTS} segments")


def _rgb_of_cmyk(pixels: Pixels) -> Pixels:
    # Adobe's way, which everybody took over: the inks are stored inverted.
    height, width = pixels.shape[:2]
    return np.asarray(Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK;I", 0, 1).convert("RGB"))
