"""Which files will take long to decode, by their heads."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.images.decoding.effort import expected_decode_s
from core.images.settings import SLOW_S
from tools.testbed.handmade import BI_RGB, BI_RLE4, BI_RLE8, BITMAPCOREHEADER, BITMAPINFOHEADER, bmp
from tools.testbed.pictures import encoded


def png_head(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(9)


def webp_head(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides + bytes(10)


def avif_head(*sides: tuple[int, int]) -> bytes:
    boxes = b"".join(b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", *side) for side in sides)
    return b"\0\0\0\x1cftypavif\0\0\0\0" + boxes


def bmp_head(width: int, height: int, *, header: int = BITMAPINFOHEADER, compression: int = BI_RGB) -> bytes:
    return bmp(b"", width, height, 24, header=header, compression=compression)


@pytest.mark.parametrize(
    ("data", "slow"),
    [
        pytest.param(png_head(1920, 1080), False, id="screenshot"),
        pytest.param(png_head(3840, 2160), True, id="4K screenshot"),
        pytest.param(png_head(7000, 7000), True, id="giant PNG"),
        pytest.param(webp_head(2000, 2000), False, id="WebP"),
        pytest.param(webp_head(7071, 7071), True, id="giant WebP canvas"),
        pytest.param(b"GIF89a" + struct.pack("<HH", 800, 600), False, id="GIF"),
        pytest.param(b"GIF89a" + struct.pack("<HH", 7000, 7000), True, id="giant GIF"),
        pytest.param(avif_head((512, 512), (1920, 1080)), False, id="AVIF"),
        pytest.param(avif_head((512, 512), (7000, 7000)), True, id="AVIF of tiles"),
        pytest.param(bmp_head(1920, 1080), False, id="BMP"),
        pytest.param(bmp_head(7000, -7000), True, id="giant BMP from the top down"),
        pytest.param(bmp_head(7000, 7000, header=BITMAPCOREHEADER), True, id="giant BMP of OS/2"),
        pytest.param(bmp_head(1920, 1080, compression=BI_RLE4), True, id="compressed BMP"),
        pytest.param(bmp_head(9, 9, compression=BI_RLE8) + bytes(2_000_000), True, id="many runs in a small BMP"),
        pytest.param(bmp_head(-7000, 7000), False, id="BMP of negative width"),
        pytest.param(b"no image", False, id="no image"),
        pytest.param(b"\xff\xd8\xff\xd9", False, id="JPEG that is refused at once"),
        pytest.param(png_head(9, 9)[:20], False, id="cut off"),
    ],
)
def test_large_pictures_of_dear_formats_are_slow(data: bytes, *, slow: bool) -> None:
    """What fits into a seventh of a second is not, nor what is refused by its head."""
    assert slow == (expected_decode_s(data) > SLOW_S)


@pytest.mark.parametrize("progressive", [pytest.param(False, id="one scan"), pytest.param(True, id="ten scans")])
def test_scans_of_a_jpeg_count(*, progressive: bool) -> None:
    """Each goes over the whole picture."""
    data = encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=progressive)

    assert progressive == (expected_decode_s(data) > 0.005)


@given(st.sampled_from([b"", b"\xff\xd8\xff", png_head(1, 1)[:16], b"GIF8", b"RIFF", b"BM", avif_head()]), st.binary())
def test_any_bytes_have_a_number(head: bytes, rest: bytes) -> None:
    """Nothing is refused here, and nothing raises."""
    assert expected_decode_s(head + rest) >= 0.0
