"""JPEG: the head is read here, the pixels by libjpeg-turbo. Pillow never sees its metadata, and few of its pixels.

What no real picture has is refused before anything is decoded: a progressive file of 200 kB can hold 11,000 scans,
each of which goes over the whole picture, and one of 10 MB half a million segments. Of the head libjpeg-turbo gets only
what makes pixels: its warnings refuse a picture, and browsers show those with a broken profile or stray bytes.
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image, JpegImagePlugin

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
_END, _SCAN, _APP0, _APP1, _APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
# A temporary marker of arithmetic coding, which stands alone as restarts do.
_ALONE = {0x01, *_RESTARTS}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
# With a length and a content that libjpeg knows or skips; it refuses every other.
_SEGMENTS = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, _SCAN, 0xFE} | {*range(0xE0, 0xF0)}
# Tables of Huffman and arithmetic codes and of quantisation, the frame and the restart interval.
_PICTURE_SEGMENTS = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD}
SCAN_MARKER = b"\xff\xda"
_MARKER_BYTES = 2
_LENGTH_BYTES = 2
_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
# What says how the components are to be read. That it is JFIF counts; of its versions libjpeg knows one.
_JFIF_PREFIX, _JFIF_BYTES = b"JFIF\0", 14
_JFIF_SEGMENT = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE_PREFIX, _ADOBE_TRANSFORM = b"Adobe", 11
# How libjpeg puts it that nothing needs the bytes before the end, as some cameras write them, and that there is no end.
_PADDED_END = re.compile("Corrupt JPEG data: ([0-9]+) extraneous bytes before marker 0xd9")
_NO_END = "Premature end of JPEG file"

_CMYK_COMPONENTS = 4
_COMPONENTS = {1, 3, _CMYK_COMPONENTS}
_COEFFICIENT_BYTES = 2
_RGB_PIXEL_BYTES = 3
# The inks, the inks turned round and RGB as Pillow holds it, and RGB as an array, copied once.
_CMYK_PIXEL_BYTES = 4 + 4 + 4 + 3 + 3
# Pillow's picture, for inks once more as RGB, and the array with the bytes that it is made of.
_PILLOW_RGB_PIXEL_BYTES, _PILLOW_CMYK_PIXEL_BYTES = 4 + 3 + 3, 4 + 4 + 3 + 3

# What TurboJPEG has a name for: of each component, how many samples it has across and down.
_NAMED_SAMPLINGS = {
    *map(bytes.fromhex, ("111111", "121212", "131313", "212121", "313131")),
    *map(bytes.fromhex, ("121111", "211111", "221111", "221212", "222121", "411111")),
    *map(bytes.fromhex, ("11111111", "12121212", "21212121", "12111112", "21111121", "22111122", "41111141")),
}


@dataclass(frozen=True, slots=True)
class Jpeg:
    """The head of a JPEG: what decides whether and how it is decoded. `turn` makes it upright.

    `odd_sampling`: libjpeg can decode it, but TurboJPEG, which is asked, has no name for its components' resolutions.
    """

    width: int
    height: int
    components: int
    turn: Turn
    several_scans: bool
    odd_sampling: bool = False


class _Segment(NamedTuple):
    """What stands from `start`, where its marker is, to `end`; the content lacks marker and length.

    A tuple, because a head has a dozen and is read with every picture.
    """

    marker: int
    start: int
    end: int
    content: bytes


@dataclass(frozen=True, slots=True)
class _Frame:
    width: int
    height: int
    components: int
    progressive: bool
    odd_sampling: bool


def read_head(data: bytes) -> Jpeg:
    """Read everything before the first scan. Raises `InvalidImage` for what is broken or over a limit."""
    *segments, scan = _segments_to_scan(data)
    frames = [_read_frame(segment) for segment in segments if segment.marker in _FRAMES]
    if len(frames) > 1:
        raise InvalidImage("the JPEG has several frames")
    if not frames or not scan.content:
        raise InvalidImage("the JPEG has a scan without a frame")
    [frame] = frames
    # One scan with everything in it is all that libjpeg reads of a file that is not progressive.
    several_scans = frame.progressive or scan.content[0] < frame.components
    if several_scans:
        _refuse_many_scans(data, scan.end)
    exif = (s.content for s in segments if s.marker == _APP1 and s.content.startswith(EXIF_PREFIX))
    turn = turn_of(next(exif, b""))
    return Jpeg(frame.width, frame.height, frame.components, turn, several_scans, frame.odd_sampling)


def scale_for(head: Jpeg, size_px: int) -> int:
    """The smallest scale, in eighths, that keeps twice `size_px` of the short side."""
    wanted = _LEAST_OF_TARGET * size_px * FULL_SCALE
    return next((scale for scale in _SCALES if min(head.width, head.height) * scale >= wanted), FULL_SCALE)


def decode(data: bytes, head: Jpeg, scale: int) -> Pixels:
    """Return uint8 (height, width, 3) as stored, at `scale` eighths of the size, rounded up.

    Raises ValueError for what libjpeg merely warns of: a cut-off file or a broken block would become grey pixels. With
    an odd sampling only a cut-off one is noticed.
    """
    data = _without_metadata(data, head)
    if head.odd_sampling:
        return _decode_by_pillow(data, head, scale)
    if simplejpeg.decode_jpeg_header(data)[:2] != (head.height, head.width):
        raise InvalidImage("the JPEG has not the size that its head says")
    try:
        pixels = _decode(data, head, scale)
    except ValueError as error:
        mended = _with_plain_end(data, head, str(error))
        if mended is None:
            raise
        pixels = _decode(mended, head, scale)
    return _rgb_of_cmyk(pixels) if head.components == _CMYK_COMPONENTS else pixels


def decoder_bytes(head: Jpeg, scale: int) -> int:
    """The most that `decode` holds at once: every coefficient, as several scans need them, and the pixels."""
    coefficients = head.width * head.height * head.components * _COEFFICIENT_BYTES
    pixels = _scaled(head.width, scale) * _scaled(head.height, scale)
    if head.components == _CMYK_COMPONENTS:
        return coefficients + pixels * (_PILLOW_CMYK_PIXEL_BYTES if head.odd_sampling else _CMYK_PIXEL_BYTES)
    return coefficients + pixels * (_PILLOW_RGB_PIXEL_BYTES if head.odd_sampling else _RGB_PIXEL_BYTES)


def _decode_by_pillow(data: bytes, head: Jpeg, scale: int) -> Pixels:
    image = Image.open(io.BytesIO(data), formats=[JpegImagePlugin.JpegImageFile.format])
    # It takes the smallest of libjpeg's sizes that is no less: rounded up, this one would not be.
    image.draft(None, (head.width * scale // FULL_SCALE, head.height * scale // FULL_SCALE))
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if pixels.shape[:2] != (_scaled(head.height, scale), _scaled(head.width, scale)):
        raise InvalidImage("the JPEG has not the size that its head says")
    return pixels


def _decode(data: bytes, head: Jpeg, scale: int) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(
        data,
        "CMYK" if head.components == _CMYK_COMPONENTS else "RGB",
        min_height=_scaled(head.height, scale),
        min_width=_scaled(head.width, scale),
        strict=True,
    )
    return pixels


def _scaled(side: int, scale: int) -> int:
    return -(-side * scale // FULL_SCALE)


def _segments_to_scan(data: bytes) -> list[_Segment]:
    """Everything before the first scan's data; the last one is that scan's head."""
    position, stray_bytes = len(_START_OF_IMAGE), 0
    segments: list[_Segment] = []
    for _ in range(MAX_SEGMENTS):
        marker, start = _next_marker(data, position, MAX_STRAY_BYTES - stray_bytes)
        stray_bytes += start - position
        position = start + _MARKER_BYTES
        if marker in _ALONE:
            continue
        if marker not in _SEGMENTS:
            raise InvalidImage("the JPEG has a segment of an unknown kind")
        content_start, position = position + _LENGTH_BYTES, _end_of_segment(data, position)
        segments.append(_Segment(marker, start, position, data[content_start:position]))
        if marker == _SCAN:
            return segments
    raise InvalidImage(f"the JPEG has more than {MAX_SEGMENTS} segments")


def _next_marker(data: bytes, position: int, stray_bytes: int) -> tuple[int, int]:
    """Return the marker and where it stands, at most `stray_bytes` further on."""
    found = _MARKER.search(data, position, position + stray_bytes + _MARKER_BYTES)
    if found is None:
        raise InvalidImage("the JPEG ends, or is padded, before its first scan")
    return data[found.start() + 1], found.start()


def _end_of_segment(data: bytes, start: int) -> int:
    length = int.from_bytes(data[start : start + 2])
    if length < _LENGTH_BYTES or start + length > len(data):
        raise InvalidImage("the JPEG has a broken segment")
    return start + length


def _read_frame(segment: _Segment) -> _Frame:
    try:
        height, width, components = struct.unpack_from(">xHHB", segment.content)
    except struct.error as error:
        raise InvalidImage("the JPEG has a broken frame") from error
    if components not in _COMPONENTS:
        raise InvalidImage(f"the JPEG has {components} components")
    sampling = segment.content[struct.calcsize(">xHHB") :][1 : components * 3 : 3]
    odd_sampling = components > 1 and sampling not in _NAMED_SAMPLINGS
    return _Frame(width, height, components, segment.marker in _PROGRESSIVE, odd_sampling)


def _without_metadata(data: bytes, head: Jpeg) -> bytes:
    """The same picture: its tables, its frame, what says how the components are to be read, and its scans."""
    *segments, scan = _segments_to_scan(data)
    kept = (_kept(data, segment, head) for segment in segments)
    return b"".join((_START_OF_IMAGE, *kept, memoryview(data)[scan.start :]))


def _kept(data: bytes, segment: _Segment, head: Jpeg) -> bytes:
    if segment.marker in _PICTURE_SEGMENTS:
        return data[segment.start : segment.end]
    content = segment.content
    if segment.marker == _APP0 and content.startswith(_JFIF_PREFIX) and len(content) >= _JFIF_BYTES:
        return _JFIF_SEGMENT
    if segment.marker == _APP14 and content.startswith(_ADOBE_PREFIX) and len(content) > _ADOBE_TRANSFORM:
        return _adobe_segment(content[_ADOBE_TRANSFORM] != 0, head)
    return b""


def _adobe_segment(transformed: bool, head: Jpeg) -> bytes:
    """Saying YCbCr or YCCK wherever the original says neither RGB nor CMYK: libjpeg does so too, with a warning."""
    transform = (2 if head.components == _CMYK_COMPONENTS else 1) if transformed else 0
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


def _with_plain_end(data: bytes, head: Jpeg, warning: str) -> bytes | None:
    """The file to decode once more, just as strictly, where only its end was odd; None if it was not that.

    The warning is the first one: whether there would have been others shows then.
    """
    if warning == _NO_END and not head.several_scans:
        # Where one scan holds everything, what it lacks is seen in it. Of several, whole ones might be missing.
        return data + _END_OF_IMAGE
    padded = _PADDED_END.fullmatch(warning)
    if padded is None:
        return None
    end = _end_of_scans(data, _segments_to_scan(data)[-1].end)
    return None if end is None else data[: end - int(padded[1])] + _END_OF_IMAGE


def _refuse_many_scans(data: bytes, position: int) -> None:
    """`position` is where the first scan's data begin."""
    # Exactly, when there might be too many: behind the picture there may be others, or a film, which hold these two
    # bytes by chance.
    if data.count(SCAN_MARKER, position) >= MAX_SCANS:
        _end_of_scans(data, position)


def _end_of_scans(data: bytes, position: int) -> int | None:
    """Where the marker at the end stands, None without one. `position` is where the first scan's data begin."""
    scans = 1
    for _ in range(MAX_SEGMENTS):
        found = _MARKER_AFTER_SCAN.search(data, position)
        if found is None:
            return None
        if data[found.end() - 1] == _END:
            return found.start()
        scans += data[found.end() - 1] == _SCAN
        if scans > MAX_SCANS:
            raise InvalidImage(f"the JPEG has more than {MAX_SCANS} scans")
        position = _end_of_segment(data, found.end())
    raise InvalidImage(f"the JPEG has more than {MAX_SEGMENTS} segments")


def _rgb_of_cmyk(pixels: Pixels) -> Pixels:
    # Adobe's way, which everybody took over: the inks are stored inverted.
    height, width = pixels.shape[:2]
    return np.asarray(Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK;I", 0, 1).convert("RGB"))
