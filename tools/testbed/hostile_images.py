"""Files that cost a decoder far more than they cost their maker. Each is small here; the pattern scales."""

import struct
import zlib

from PIL import Image

from tools.testbed.pictures import encoded, natural

BASELINE = encoded(natural(64, 48), "JPEG")
PROGRESSIVE = encoded(natural(64, 48), "JPEG", progressive=True)
PNG = encoded(natural(64, 48), "PNG")
GIF = encoded(natural(64, 48), "GIF")
ANIMATED_WEBP = encoded(natural(64, 48), "WEBP", save_all=True, append_images=[natural(64, 48, 1)])

EXIF_SEGMENT = b"\xff\xe1\x00\x08Exif\0\0"
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_PNG_HEAD_BYTES = 33


def behind_start(inserted: bytes, jpeg: bytes = BASELINE) -> bytes:
    """A JPEG with something put behind its first marker."""
    return jpeg[:2] + inserted + jpeg[2:]


def with_scans(count: int, before_them: bytes = b"", jpeg: bytes = PROGRESSIVE) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `count`, all of them valid."""
    body, last = jpeg[: jpeg.rindex(_END)], jpeg.rindex(_SCAN)
    return body + before_them + body[last:] * (count - body.count(_SCAN)) + _END


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(chunks: bytes) -> bytes:
    """A PNG with chunks put behind its head."""
    return PNG[:_PNG_HEAD_BYTES] + chunks + PNG[_PNG_HEAD_BYTES:]


def gif_with(blocks: bytes) -> bytes:
    """A GIF with blocks put in front of its first frame."""
    start = 13 + (3 << (GIF[10] & 7) + 1)
    return GIF[:start] + blocks + GIF[start:]


def webp_with_canvas(width: int, height: int) -> bytes:
    """An animated WebP of a few hundred bytes that claims a canvas of this size."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return ANIMATED_WEBP[:24] + sides + ANIMATED_WEBP[30:]


def thin(width: int, height: int) -> bytes:
    """A PNG of one bit per pixel."""
    return encoded(Image.new("1", (width, height)), "PNG")
