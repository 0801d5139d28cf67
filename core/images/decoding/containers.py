"""PNG, GIF and WebP before Pillow opens them: floods are refused, and what makes no pixels is left out.

Pillow reads these files piece by piece in Python, so a flood of empty pieces costs seconds; and it refuses a picture
for a fault in a piece that browsers skip. A WebP's canvas is allocated when it is opened, from what its first 30 bytes
claim.
"""

import struct
import zlib
from dataclasses import dataclass, field

from core.errors import InvalidImage

# Encoders write image data in pieces of 8 kB or more: 10 MB are 1,300 of them, and an animation has some per frame.
MAX_PNG_CHUNKS = 20_000
# Comments and extensions in front of the first frame of a GIF, and the pieces of up to 255 bytes that they are made of.
MAX_GIF_BLOCKS = 300
MAX_GIF_SUB_BLOCKS = 50_000

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PALETTE, _PNG_IMAGE_DATA, _PNG_END = b"PLTE", b"IDAT", b"IEND"
_PNG_PICTURE = {b"IHDR", _PNG_PALETTE, _PNG_IMAGE_DATA, _PNG_END}
_PNG_TRANSPARENCY, _PNG_EXIF = b"tRNS", b"eXIf"
_PNG_CHUNK_HEAD = struct.Struct(">I4s")
_PNG_CRC_BYTES = 4
# Bit depth and colour type, in the first chunk.
_PNG_DEPTH, _PNG_COLOUR_TYPE = len(PNG_SIGNATURE) + 16, len(PNG_SIGNATURE) + 17
_PNG_MAX_DEPTH = 16
_PNG_INDEXED = 3
# Of the one colour that is transparent, where there is one: grey, RGB.
_PNG_SAMPLES = {0: 1, 2: 3}

_GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
_GIF_HEAD_BYTES = 13
_GIF_FLAGS = 10
_GIF_FRAME, _GIF_EXTENSION = b"\x2c", b"\x21"
# It says what is transparent in the frame behind it: two bytes of head, four of content, an end.
_GIF_CONTROL_HEAD, _GIF_CONTROL_BYTES = b"\x21\xf9\x04", 8

_WEBP_HEAD_BYTES = 30
# A side is 14 bits, and what else shares its bytes is cut off.
_WEBP_SIDE = 0x3FFF


def without_metadata(data: bytes) -> bytes:
    """A PNG or GIF of the pieces that make its first picture, and EXIF; any other file as it is.

    Raises `InvalidImage` when there are more pieces than any real file has. What is missing is the decoder's to say.
    """
    if data.startswith(PNG_SIGNATURE):
        return _plain_png(data)
    return _plain_gif(data) if data.startswith(_GIF_SIGNATURES) else data


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height of what libwebp allocates for this file; None if it is no WebP.

    https://developers.google.com/speed/webp/docs/riff_container: the first chunk decides.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < _WEBP_HEAD_BYTES:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & _WEBP_SIDE) + 1, (bits >> 14 & _WEBP_SIDE) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & _WEBP_SIDE, height & _WEBP_SIDE


def _plain_png(data: bytes) -> bytes:
    position, plain = len(PNG_SIGNATURE), _PlainPng(data)
    for _ in range(MAX_PNG_CHUNKS):
        if position + _PNG_CHUNK_HEAD.size > len(data):
            return b"".join(plain.kept)
        length, kind = _PNG_CHUNK_HEAD.unpack_from(data, position)
        end = position + _PNG_CHUNK_HEAD.size + length + _PNG_CRC_BYTES
        plain.add(kind, memoryview(data)[position:end])
        if kind == _PNG_END:
            return b"".join(plain.kept)
        position = end
    raise InvalidImage(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


@dataclass(slots=True)
class _PlainPng:
    """Takes the chunks of a file in their order and keeps some. One that libpng would skip, because it is broken, comes
    twice or stands where it must not, does not count.
    """

    data: bytes
    kept: list[bytes | memoryview] = field(default_factory=lambda: [PNG_SIGNATURE])
    seen: set[bytes] = field(default_factory=set)
    colours: int = 0

    def add(self, kind: bytes, chunk: memoryview) -> None:
        content = chunk[_PNG_CHUNK_HEAD.size : -_PNG_CRC_BYTES]
        if kind in _PNG_PICTURE:
            self.kept.append(chunk)
            self.colours = len(content) // 3 if kind == _PNG_PALETTE else self.colours
        elif kind == _PNG_EXIF and self._counts(kind, chunk):
            self.kept.append(chunk)
        elif kind == _PNG_TRANSPARENCY and self._counts(kind, chunk) and _PNG_IMAGE_DATA not in self.seen:
            self.kept.append(self._transparency(content))
        self.seen.add(kind)

    def _counts(self, kind: bytes, chunk: memoryview) -> bool:
        return kind not in self.seen and zlib.crc32(chunk[4:-_PNG_CRC_BYTES]) == int.from_bytes(chunk[-_PNG_CRC_BYTES:])

    def _transparency(self, content: memoryview) -> bytes:
        depth, colour_type = self.data[_PNG_DEPTH : _PNG_COLOUR_TYPE + 1]
        if colour_type == _PNG_INDEXED:
            return _png_chunk(_PNG_TRANSPARENCY, content) if 0 < len(content) <= self.colours else b""
        if len(content) != 2 * _PNG_SAMPLES.get(colour_type, 0) or not 0 < depth <= _PNG_MAX_DEPTH:
            return b""
        samples = (_eight_bits(value, depth) for (value,) in struct.iter_unpack(">H", content))
        return _png_chunk(_PNG_TRANSPARENCY, b"".join(sample.to_bytes(2) for sample in samples))


def _eight_bits(sample: int, depth: int) -> int:
    """As Pillow compares it: with what it has stretched from two or four bits to eight. One and sixteen stay.

    Only as many bits count as the picture has: https://www.w3.org/TR/png-3/#11tRNS.
    """
    largest = (1 << depth) - 1
    return (sample & largest) * (255 // largest if depth in (2, 4) else 1)


def _png_chunk(kind: bytes, content: bytes | memoryview) -> bytes:
    head = _PNG_CHUNK_HEAD.pack(len(content), kind)
    return b"".join((head, content, zlib.crc32(content, zlib.crc32(kind)).to_bytes(4)))


def _plain_gif(data: bytes) -> bytes:
    """Up to the first frame, what counts is the palette and the last control extension."""
    palette_end = _GIF_HEAD_BYTES + _gif_palette_bytes(data)
    position, sub_blocks, control = palette_end, 0, b""
    for _ in range(MAX_GIF_BLOCKS):
        kind = data[position : position + 1]
        if kind in (b"", _GIF_FRAME):
            return b"".join((data[:palette_end], control, memoryview(data)[position:]))
        if kind != _GIF_EXTENSION:
            # Padding.
            position += 1
            continue
        if data.startswith(_GIF_CONTROL_HEAD, position):
            control = data[position : position + _GIF_CONTROL_BYTES - 1] + b"\0"
        position += 2
        while length := int.from_bytes(data[position : position + 1]):
            position += 1 + length
            sub_blocks += 1
            if sub_blocks > MAX_GIF_SUB_BLOCKS:
                raise InvalidImage(f"the GIF has more than {MAX_GIF_SUB_BLOCKS} pieces before its first frame")
        position += 1
    raise InvalidImage(f"the GIF has more than {MAX_GIF_BLOCKS} blocks before its first frame")


def _gif_palette_bytes(data: bytes) -> int:
    flags = int.from_bytes(data[_GIF_FLAGS : _GIF_FLAGS + 1])
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
