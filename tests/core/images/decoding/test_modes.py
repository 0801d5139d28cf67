"""Every mode of PNG, GIF, BMP and WebP: exactly the colours that were written, on white, with nothing resized."""

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from core.images.decoding.pixels import PixelDecoder
from tools.testbed import handmade
from tools.testbed.handmade import bmp, bmp_rows, gif, png
from tools.testbed.hostile_images import png_chunk
from tools.testbed.pictures import encoded

SIZE_PX = 32
DECODER = PixelDecoder(SIZE_PX, max_pixels=SIZE_PX**2)
Samples = npt.NDArray[np.integer]

RANDOM = np.random.default_rng(7)
PALETTE = RANDOM.integers(0, 256, (256, 3), dtype=np.uint8)


def samples(channels: int, bits: int) -> Samples:
    """The corner has the value one in every channel, and its neighbour one in its low byte alone: colours to key."""
    values = RANDOM.integers(0, 1 << bits, (SIZE_PX, SIZE_PX, channels))
    values[0, 0] = 1
    values[0, 1] = 1 | (1 << bits >> 1)
    return values


def transparent(*values: int) -> bytes:
    return png_chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def palette_chunk(colours: int) -> bytes:
    return png_chunk(b"PLTE", PALETTE[:colours].tobytes())


def eight_bits(values: Samples, bits: int) -> Samples:
    return values >> 8 if bits == 16 else values * 255 // ((1 << bits) - 1)


def on_white(rgb: Samples, alpha: Samples) -> Samples:
    """`alpha` of 0 to 255; the nearest of 256 values."""
    share = alpha / 255
    return np.round(rgb * share + 255 * (1 - share)).astype(int)


def keyed(rgb: Samples, is_key: npt.NDArray[np.bool_]) -> Samples:
    return np.where(is_key[..., None], 255, rgb)


def decoded(data: bytes) -> Samples:
    return DECODER.decode(data).transpose(1, 2, 0).astype(int)


def as_rgb(values: Samples) -> Samples:
    return np.broadcast_to(values, (SIZE_PX, SIZE_PX, 3))


INTERLACED = pytest.mark.parametrize("interlaced", [False, True], ids=["in-order", "interlaced"])


@INTERLACED
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("key", [None, 1, 0], ids=["opaque", "one-transparent", "black-transparent"])
def test_grey_png(bits: int, key: int | None, *, interlaced: bool) -> None:
    """Grey of any depth, and of its samples exactly those that are said to be transparent become white."""
    grey = samples(1, bits)
    before = b"" if key is None else transparent(key)

    expected = keyed(as_rgb(eight_bits(grey, bits)), grey[..., 0] == key)
    assert (expected == decoded(png(grey, handmade.GREY, bits, before_data=before, interlaced=interlaced))).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_only_the_bits_of_a_sample_count(bits: int) -> None:
    """The transparent grey is given in two bytes, whose upper bits mean nothing."""
    grey = samples(1, bits)
    one, more = (png(grey, handmade.GREY, bits, before_data=transparent(key)) for key in (1, 1 | 1 << bits | 1 << 15))

    assert (decoded(one) == decoded(more)).all()


@INTERLACED
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("key", [None, (1, 1, 1), (0, 0, 0)], ids=["opaque", "one-transparent", "black-transparent"])
def test_colour_png(bits: int, key: tuple[int, int, int] | None, *, interlaced: bool) -> None:
    """RGB of 8 and 16 bits, and all bits of the transparent colour count."""
    rgb = samples(3, bits)
    rgb[1, 1] = 0
    before = b"" if key is None else transparent(*key)

    expected = keyed(eight_bits(rgb, bits), (rgb == (key or (-1,))).all(axis=2))
    assert (expected == decoded(png(rgb, handmade.RGB, bits, before_data=before, interlaced=interlaced))).all()


@INTERLACED
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("alphas", [b"", b"\0", b"\xff\0", b"\x80\x40\0"], ids=["opaque", "first", "second", "partly"])
def test_palette_png(bits: int, alphas: bytes, *, interlaced: bool) -> None:
    """Colours of a palette of any size, each with its own transparency; one too many counts for none."""
    indices = samples(1, bits)
    colours = 1 << bits
    before = palette_chunk(colours) + (png_chunk(b"tRNS", alphas) if alphas else b"")

    counted = alphas if len(alphas) <= colours else b""
    alpha = np.frombuffer(counted.ljust(256, b"\xff"), np.uint8)[indices]
    expected = on_white(PALETTE[indices[..., 0]], alpha)
    off = np.abs(expected - decoded(png(indices, handmade.INDEXED, bits, before_data=before, interlaced=interlaced)))
    assert (off <= (alpha % 255 != 0)).all()


@INTERLACED
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("colour_type", "channels"), [(handmade.GREY_ALPHA, 2), (handmade.RGB_ALPHA, 4)], ids=["LA", "RGBA"]
)
def test_png_with_alpha(colour_type: int, channels: int, bits: int, *, interlaced: bool) -> None:
    """A channel of transparency is composited on white: exactly at both ends, to the nearest value or its neighbour."""
    values = samples(channels, bits)
    values[2:9, :, -1], values[9:16, :, -1] = 0, (1 << bits) - 1

    eight = eight_bits(values, bits)
    alpha = eight[..., -1:]
    expected = on_white(as_rgb(eight[..., :-1]), alpha)
    off = np.abs(expected - decoded(png(values, colour_type, bits, interlaced=interlaced)))
    assert (off <= (alpha % 255 != 0)).all()


@pytest.mark.parametrize("local", [False, True], ids=["global-palette", "local-palette"])
@pytest.mark.parametrize("key", [None, 5], ids=["opaque", "transparent"])
def test_gif(key: int | None, *, local: bool) -> None:
    """The palette's colours, and the transparent index is white."""
    indices = samples(1, 8)[..., 0]
    control = b"" if key is None else b"!\xf9\4\1\0\0" + bytes([key]) + b"\0"
    data = gif(indices.astype(np.uint8), PALETTE.tobytes(), before_frame=control, local_palette=local)

    assert (keyed(PALETTE[indices], indices == key) == decoded(data)).all()


@pytest.mark.parametrize("key", [None, 5], ids=["opaque", "transparent"])
def test_gif_frame_within_its_canvas(key: int | None) -> None:
    """What the first frame leaves free of the canvas is white, as nothing is drawn there."""
    indices = samples(1, 8)[:10, :20, 0]
    control = b"" if key is None else b"!\xf9\4\1\0\0" + bytes([key]) + b"\0"
    data = gif(indices.astype(np.uint8), PALETTE.tobytes(), canvas=(32, 32), at=(3, 5), before_frame=control)

    expected = np.full((SIZE_PX, SIZE_PX, 3), 255)
    expected[5:15, 3:23] = keyed(PALETTE[indices], indices == key)
    assert (expected == decoded(data)).all()


def bgr(values: Samples) -> Samples:
    return np.concatenate((values[..., 2::-1], values[..., 3:]), axis=2)


def bmp_palette(colours: int, entry_bytes: int) -> bytes:
    padded = np.concatenate((PALETTE[:colours, ::-1], np.zeros((colours, 1), np.uint8)), axis=1)
    return padded[:, :entry_bytes].tobytes()


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize(
    ("header", "entry_bytes"),
    [
        pytest.param(handmade.BITMAPCOREHEADER, 3, id="OS/2"),
        pytest.param(handmade.BITMAPINFOHEADER, 4, id="Windows"),
        pytest.param(handmade.BITMAPV5HEADER, 4, id="V5"),
    ],
)
def test_palette_bmp(bits: int, header: int, entry_bytes: int) -> None:
    """Colours of a palette, whatever the header."""
    indices = samples(1, bits)[..., 0]
    palette = bmp_palette(1 << bits, entry_bytes)

    data = bmp(bmp_rows(indices, bits), SIZE_PX, SIZE_PX, bits, header=header, palette=palette)
    assert (PALETTE[indices] == decoded(data)).all()


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("top_down", [False, True], ids=["bottom-up", "top-down"])
def test_colour_bmp(bits: int, *, top_down: bool) -> None:
    """RGB, from either end; the fourth byte is no transparency where no mask says so."""
    values = samples(bits // 8, 8)
    stored = bgr(values).reshape(SIZE_PX, -1)
    pixels = bmp_rows(stored[::-1] if top_down else stored, 8)

    assert (values[..., :3] == decoded(bmp(pixels, SIZE_PX, -SIZE_PX if top_down else SIZE_PX, bits))).all()


def test_colour_bmp_under_the_shortest_header() -> None:
    """OS/2 wrote 24 bits too."""
    values = samples(3, 8)
    pixels = bmp_rows(bgr(values).reshape(SIZE_PX, -1), 8)

    assert (values == decoded(bmp(pixels, SIZE_PX, SIZE_PX, 24, header=handmade.BITMAPCOREHEADER))).all()


@pytest.mark.parametrize(
    ("compression", "masks", "shifts", "bits"),
    [
        pytest.param(handmade.BI_RGB, (), (10, 5, 0), (5, 5, 5), id="five-each"),
        pytest.param(handmade.BI_BITFIELDS, (0x7C00, 0x3E0, 0x1F), (10, 5, 0), (5, 5, 5), id="five-each-by-masks"),
        pytest.param(handmade.BI_BITFIELDS, (0xF800, 0x7E0, 0x1F), (11, 5, 0), (5, 6, 5), id="six-for-green"),
    ],
)
def test_sixteen_bit_bmp(
    compression: int, masks: tuple[int, ...], shifts: tuple[int, ...], bits: tuple[int, ...]
) -> None:
    """Five or six bits of each colour, stretched to eight."""
    channels = [samples(1, count)[..., 0] for count in bits]
    packed = np.bitwise_or.reduce([channel << shift for channel, shift in zip(channels, shifts, strict=True)])
    # The masks stand behind the shorter header, where a palette would.
    palette = struct.pack(f"<{len(masks)}I", *masks)

    expected = np.stack([channel * 255 // ((1 << count) - 1) for channel, count in zip(channels, bits, strict=True)], 2)
    data = bmp(bmp_rows(packed, 16), SIZE_PX, SIZE_PX, 16, compression=compression, palette=palette)
    assert (expected == decoded(data)).all()


@pytest.mark.parametrize("header", [handmade.BITMAPV4HEADER, handmade.BITMAPV5HEADER], ids=["V4", "V5"])
@pytest.mark.parametrize("with_alpha", [False, True], ids=["opaque", "alpha"])
def test_bmp_with_masks(header: int, *, with_alpha: bool) -> None:
    """A mask for transparency makes the fourth byte count, on white."""
    values = samples(4, 8)
    values[2:9, :, -1], values[9:16, :, -1] = 0, 255
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000 if with_alpha else 0)
    pixels = bmp_rows(bgr(values).reshape(SIZE_PX, -1), 8)
    data = bmp(pixels, SIZE_PX, SIZE_PX, 32, header=header, compression=handmade.BI_BITFIELDS, masks=masks)

    alpha = values[..., 3:] if with_alpha else np.full((SIZE_PX, SIZE_PX, 1), 255)
    assert (np.abs(on_white(values[..., :3], alpha) - decoded(data)) <= (alpha % 255 != 0)).all()


@pytest.mark.parametrize(
    ("bits", "compression", "pack"),
    [(8, handmade.BI_RLE8, handmade.rle8), (4, handmade.BI_RLE4, handmade.rle4)],
    ids=["RLE8", "RLE4"],
)
def test_compressed_bmp(bits: int, compression: int, pack: Callable[[Samples], bytes]) -> None:
    """Runs of pixels, and pixels as they are."""
    indices = samples(1, bits)[..., 0].astype(np.uint8)
    palette = bmp_palette(1 << bits, 4)

    data = bmp(pack(indices), SIZE_PX, SIZE_PX, bits, compression=compression, palette=palette)
    assert (PALETTE[indices] == decoded(data)).all()


@pytest.mark.parametrize("channels", [3, 4], ids=["opaque", "alpha"])
def test_lossless_webp(channels: int) -> None:
    """Exactly what was written, on white."""
    values = samples(channels, 8)
    mode = "RGBA" if channels == 4 else "RGB"
    data = encoded(Image.fromarray(values.astype(np.uint8), mode), "WEBP", lossless=True, exact=True)

    alpha = values[..., 3:] if channels == 4 else np.full((SIZE_PX, SIZE_PX, 1), 255)
    assert (np.abs(on_white(values[..., :3], alpha) - decoded(data)) <= (alpha % 255 != 0)).all()
