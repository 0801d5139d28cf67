"""PNG, GIF and WebP in front of Pillow: floods are refused, real files pass, a WebP's canvas is known."""

import pytest

from core.errors import InvalidImage
from core.images.decoding.containers import (
    MAX_GIF_BLOCKS,
    MAX_PNG_CHUNKS,
    MAX_PNG_METADATA_CHUNKS,
    refuse_floods,
    webp_canvas,
)
from tools.testbed.hostile_images import ANIMATED_WEBP, GIF, PNG, gif_with, png_chunk, png_with, webp_with_canvas
from tools.testbed.pictures import encoded, natural

EMPTY_COMMENT = b"!\xfe\0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(png_with(png_chunk(b"IDAT") * MAX_PNG_CHUNKS), "20000 chunks", id="empty image data"),
        pytest.param(png_with(png_chunk(b"prVt") * 301), "300 chunks beside", id="private chunks"),
        pytest.param(PNG[:-12] + png_chunk(b"prVt") * 301 + PNG[-12:], "300 chunks beside", id="behind the image data"),
        pytest.param(gif_with(EMPTY_COMMENT * 300), "300 blocks", id="empty comments"),
        pytest.param(gif_with(b"\0" * 300), "300 blocks", id="padding"),
        pytest.param(gif_with(b"!\xfe" + b"\1a" * 50_001 + b"\0"), "50000 pieces", id="a comment in pieces"),
    ],
)
def test_floods_are_refused(data: bytes, words: str) -> None:
    """More pieces than any real file has are refused, and the message names the limit."""
    with pytest.raises(InvalidImage, match=words):
        refuse_floods(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PNG, id="PNG"),
        pytest.param(png_with(png_chunk(b"prVt") * (MAX_PNG_METADATA_CHUNKS - 10)), id="PNG with much metadata"),
        pytest.param(PNG[:100], id="cut-off PNG"),
        pytest.param(GIF, id="GIF"),
        pytest.param(gif_with(EMPTY_COMMENT * (MAX_GIF_BLOCKS - 10)), id="GIF with many comments"),
        pytest.param(GIF[:13], id="GIF that ends behind its head"),
        pytest.param(GIF[:6], id="GIF of a signature"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_others_pass(data: bytes) -> None:
    """What is within the limits is the decoder's to judge, broken files too."""
    refuse_floods(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(natural(301, 203), "WEBP"), id="lossy"),
        pytest.param(encoded(natural(301, 203), "WEBP", lossless=True), id="lossless"),
        pytest.param(encoded(natural(301, 203).convert("RGBA"), "WEBP", exif=b"Exif\0\0"), id="extended"),
        pytest.param(webp_with_canvas(301, 203), id="animated"),
    ],
)
def test_canvas_is_read(data: bytes) -> None:
    """The canvas of every kind of WebP stands in its first 30 bytes."""
    assert (301, 203) == webp_canvas(data)


@pytest.mark.parametrize(
    "data", [pytest.param(PNG, id="another format"), pytest.param(ANIMATED_WEBP[:29], id="cut off")]
)
def test_no_canvas(data: bytes) -> None:
    """What is no WebP has none."""
    assert webp_canvas(data) is None
