"""PNG, GIF and WebP before Pillow opens them: what only an attack has is refused, in the time of a few reads.

Pillow reads these files piece by piece in Python, so a flood of empty pieces costs seconds; and a WebP's canvas is
allocated when it is opened, from what its first 30 bytes claim.
"""

import struct

from core.errors import InvalidImage

# Encoders write image data in pieces of 8 kB or more: 10 MB are 1,300 of them, and an animation has some per frame.
MAX_PNG_CHUNKS = 20_000
# Texts, profiles, palettes. One of 1 kB may unpack to 1 MB.
MAX_PNG_METADATA_CHUNKS = 300
# Comments and extensions in front of the first frame of a GIF, and the pieces of up to 255 bytes that they are made of.
MAX_GIF_BLOCKS = 300
MAX_GIF_SUB_BLOCKS = 50_000

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_IMAGE_DATA = {b"IDAT", b"fdAT", b"fcTL"}
_PNG_END = b"IEND"
_PNG_CHUNK_HEAD = struct.Struct(">I4s")
_PNG_CRC_BYTES = 4

_GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
_GIF_HEAD_BYTES = 13
_GIF_FLAGS = 10
_GIF_FRAME, _GIF_EXTENSION = 0x2C, 0x21

_WEBP_HEAD_BYTES = 30
# A side is 14 bits, and what else shares its bytes is cut off.
_WEBP_SIDE = 0x3FFF


def refuse_floods(data: bytes) -> None:
    """Raise `InvalidImage` for a PNG or GIF with more pieces than any real one has; others pass."""
    if data.startswith(_PNG_SIGNATURE):
        _refuse_png_flood(data)
    elif data.startswith(_GIF_SIGNATURES):
        _refuse_gif_flood(data)


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


def _refuse_png_flood(data: bytes) -> None:
    position, metadata = len(_PNG_SIGNATURE), 0
    for _ in range(MAX_PNG_CHUNKS):
        if position + _PNG_CHUNK_HEAD.size > len(data):
            # What is missing is the decoder's to say.
            return
        length, kind = _PNG_CHUNK_HEAD.unpack_from(data, position)
        if kind == _PNG_END:
            return
        metadata += kind not in _PNG_IMAGE_DATA
        if metadata > MAX_PNG_METADATA_CHUNKS:
            raise InvalidImage(f"the PNG has more than {MAX_PNG_METADATA_CHUNKS} chunks beside its image data")
        position += _PNG_CHUNK_HEAD.size + length + _PNG_CRC_BYTES
    raise InvalidImage(f"the PNG has more than {MAX_PNG_CHUNKS} chunks")


def _refuse_gif_flood(data: bytes) -> None:
    position, sub_blocks = _GIF_HEAD_BYTES + _gif_palette_bytes(data), 0
    for _ in range(MAX_GIF_BLOCKS):
        kind = data[position : position + 1]
        if kind in (b"", bytes([_GIF_FRAME])):
            return
        if kind != bytes([_GIF_EXTENSION]):
            # Padding, which Pillow skips byte by byte.
            position += 1
            continue
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
