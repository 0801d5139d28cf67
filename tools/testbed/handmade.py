"""PNG, GIF, BMP and JPEG files written byte by byte: many kinds that are read Pillow does not write."""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tools.testbed.hostile_images import png_chunk

Samples = npt.NDArray[np.integer]

GREY, RGB, INDEXED, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6

# First row, first column, step of rows, step of columns: https://www.w3.org/TR/png-3/#8Interlace.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))

_LARGEST_DEPTH = 16

BITMAPCOREHEADER, BITMAPINFOHEADER, BITMAPV4HEADER, BITMAPV5HEADER = 12, 40, 108, 124
BI_RGB, BI_RLE8, BI_RLE4, BI_BITFIELDS = 0, 1, 2, 3


def png(
    samples: Samples,
    colour_type: int,
    depth: int,
    *,
    before_data: bytes = b"",
    interlaced: bool = False,
    end: bytes = b"",
) -> bytes:
    """`samples` are integers (height, width, channels) of `depth` bits; `before_data` and `end` are whole chunks."""
    height, width = samples.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    passes = [samples[top::down, left::right] for top, left, down, right in _ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + _packed(row.reshape(-1), depth) for part in passes if part.size for row in part)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + before_data + data + end + png_chunk(b"IEND")


def _packed(samples: Samples, depth: int) -> bytes:
    """Samples of `depth` bits, the high bits of a byte first, the last byte filled with zeros."""
    if depth == _LARGEST_DEPTH:
        return samples.astype(">u2").tobytes()
    shifts = np.arange(depth - 1, -1, -1)
    return np.packbits(samples[:, None] >> shifts & 1).tobytes()


def gif(
    indices: Samples,
    palette: bytes,
    *,
    canvas: tuple[int, int] | None = None,
    at: tuple[int, int] = (0, 0),
    before_frame: bytes = b"",
    local_palette: bool = False,
) -> bytes:
    """One frame of 8-bit `indices` (height, width) at a position on a canvas of width and height; 256 colours."""
    height, width = indices.shape
    canvas_width, canvas_height = canvas or (width, height)
    flags = 0xF7
    head = b"GIF89a" + struct.pack("<HHBBB", canvas_width, canvas_height, 0x70 if local_palette else flags, 0, 0)
    frame = b"," + struct.pack("<HHHHB", *at, width, height, 0x87 if local_palette else 0)
    outer, inner = (b"", palette) if local_palette else (palette, b"")
    return (
        head + outer + before_frame + frame + inner + b"\x08" + _sub_blocks(_lzw(indices.reshape(-1).tolist())) + b"\0;"
    )


def _lzw(pixels: Sequence[int]) -> bytes:
    """Codes of nine bits that are never compressed: the table is cleared before it would need a tenth."""
    codes: list[int] = []
    for start in range(0, len(pixels), 250):
        codes += [256, *pixels[start : start + 250]]
    bits = sum(code << 9 * position for position, code in enumerate([*codes, 257]))
    return bits.to_bytes(len(codes) * 9 // 8 + 3, "little")


def _sub_blocks(data: bytes) -> bytes:
    return b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))


def bmp(
    pixels: bytes,
    width: int,
    height: int,
    bits: int,
    *,
    header: int = BITMAPINFOHEADER,
    compression: int = BI_RGB,
    palette: bytes = b"",
    masks: Sequence[int] = (),
) -> bytes:
    """`pixels` as they are stored, bottom row first unless `height` is negative; a palette has four bytes a colour,
    three under the shortest header.
    """
    if header == BITMAPCOREHEADER:
        head = struct.pack("<IHHHH", header, width, height, 1, bits)
    else:
        colours = len(palette) // 4
        head = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(pixels), 0, 0, colours, 0)
        head = (head + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + head + palette + pixels


def bmp_rows(samples: Samples, depth: int) -> bytes:
    """Samples (height, width * channels) as a BMP stores them from the bottom up, each row filled to four bytes."""
    return b"".join(_filled(row) for row in _rows_upwards(samples, depth))


def _rows_upwards(samples: Samples, depth: int) -> Iterator[bytes]:
    for row in samples[::-1]:
        yield row.astype("<u2").tobytes() if depth == _LARGEST_DEPTH else _packed(row, depth)


def _filled(row: bytes) -> bytes:
    return row + bytes(-len(row) % 4)


def rle8(indices: Samples) -> bytes:
    """Every second row in runs of one, the others as they are; then an end of the row, and of the picture."""
    return b"".join(_rle8_row(row.tobytes(), number % 2 == 0) for number, row in enumerate(indices[::-1])) + b"\0\1"


def _rle8_row(row: bytes, in_runs: bool) -> bytes:
    if in_runs:
        return b"".join(b"\1" + row[at : at + 1] for at in range(len(row))) + b"\0\0"
    return b"\0" + bytes([len(row)]) + row + bytes(len(row) % 2) + b"\0\0"


def rle4(indices: Samples) -> bytes:
    """Runs of two pixels each, which may differ."""
    pairs = indices[::-1, 0::2] << 4 | indices[::-1, 1::2]
    return b"".join(b"".join(bytes([2, pair]) for pair in row) + b"\0\0" for row in pairs) + b"\0\1"


def grey_jpeg(sampling: bytes, width: int, height: int) -> bytes:
    """A mid-grey one in one scan. `sampling` has a byte of each component: its samples across and down, 4 bits each."""
    components = [bytes([number, factors, 0]) for number, factors in enumerate(sampling)]
    # A table with one code of one bit, 0: no difference to the block before, and nothing but that.
    only_zero = bytes([1]) + bytes(15) + b"\0"
    scan = bytes([len(sampling)]) + b"".join(bytes([number, 0]) for number in range(len(sampling))) + b"\0\x3f\0"
    across, down = max(factors >> 4 for factors in sampling), max(factors & 15 for factors in sampling)
    units = math.ceil(width / 8 / across) * math.ceil(height / 8 / down)
    bits = units * sum((factors >> 4) * (factors & 15) for factors in sampling) * 2
    return b"".join(
        (
            b"\xff\xd8",
            _jpeg_segment(0xDB, b"\0" + b"\1" * 64),
            _jpeg_segment(0xC0, struct.pack(">BHHB", 8, height, width, len(sampling)) + b"".join(components)),
            _jpeg_segment(0xC4, b"\0" + only_zero + b"\x10" + only_zero),
            _jpeg_segment(0xDA, scan),
            # The last byte is filled with ones.
            bytes(bits // 8) + (bytes([0xFF >> bits % 8]) if bits % 8 else b""),
            b"\xff\xd9",
        )
    )


def _jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
