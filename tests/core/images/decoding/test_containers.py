"""PNG, GIF and WebP in front of Pillow: floods are refused, real files made plain, a WebP's canvas is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidImage
from core.images.decoding.containers import MAX_GIF_BLOCKS, MAX_PNG_CHUNKS, webp_canvas, without_metadata
from tools.testbed.hostile_images import ANIMATED_WEBP, PNG, gif_with, png_chunk, png_with, webp_with_canvas
from tools.testbed.pictures import encoded, natural

EMPTY_COMMENT = b"!\xfe\0"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(png_with(png_chunk(b"IDAT") * MAX_PNG_CHUNKS), "20000 chunks", id="empty image data"),
        pytest.param(png_with(png_chunk(b"prVt") * MAX_PNG_CHUNKS), "20000 chunks", id="private chunks"),
        pytest.param(gif_with(EMPTY_COMMENT * 300), "300 blocks", id="empty comments"),
        pytest.param(gif_with(b"\0" * 300), "300 blocks", id="padding"),
        pytest.param(gif_with(b"!\xfe" + b"\1a" * 50_001 + b"\0"), "50000 pieces", id="a comment in pieces"),
    ],
)
def test_floods_are_refused(data: bytes, words: str) -> None:
    """More pieces than any real file has are refused, and the message names the limit."""
    with pytest.raises(InvalidImage, match=words):
        without_metadata(data)


PLAIN_GIF = gif_with(b"")
CONTROL, EMPTY_CONTROL = b"!\xf9\4\1\0\0\7\0", b"!\xf9\4\0\0\0\0\0"


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        pytest.param(PNG, PNG, id="PNG"),
        pytest.param(png_with(png_chunk(b"tEXt", b"a\0b") * (MAX_PNG_CHUNKS - 10)), PNG, id="PNG with much metadata"),
        pytest.param(png_with(png_chunk(b"acTL", bytes(8)) + png_chunk(b"fcTL")), PNG, id="PNG with animation"),
        pytest.param(PNG[:-12] + png_chunk(b"zTXt") + PNG[-12:], PNG, id="PNG with metadata behind the image data"),
        pytest.param(PNG + b"more", PNG, id="PNG and more"),
        pytest.param(png_with(png_chunk(b"eXIf", b"MM")), png_with(png_chunk(b"eXIf", b"MM")), id="EXIF is kept"),
        pytest.param(png_with(png_chunk(b"eXIf", b"MM")[:-1] + b"!"), PNG, id="EXIF with a wrong checksum"),
        pytest.param(PNG[:100], PNG[:100], id="cut-off PNG"),
        pytest.param(PNG[:20], PNG[:20], id="PNG cut off in its head"),
        pytest.param(PNG[:8], PNG[:8], id="PNG of a signature"),
        pytest.param(PLAIN_GIF, PLAIN_GIF, id="GIF"),
        pytest.param(gif_with(EMPTY_COMMENT * (MAX_GIF_BLOCKS - 10)), PLAIN_GIF, id="GIF with many comments"),
        pytest.param(gif_with(b"!\xff\0\0\0"), PLAIN_GIF, id="GIF with an empty extension and padding"),
        pytest.param(gif_with(b"!\xf9\2\1\0\0"), PLAIN_GIF, id="GIF with a short control extension"),
        pytest.param(gif_with(CONTROL + b"!\xfe\1a\0"), gif_with(CONTROL), id="the control extension is kept"),
        pytest.param(
            gif_with(CONTROL + EMPTY_CONTROL), gif_with(EMPTY_CONTROL), id="the last control extension counts"
        ),
        pytest.param(gif_with(CONTROL[:-1] + b"\1a\0"), gif_with(CONTROL), id="a control extension of two pieces"),
        pytest.param(PLAIN_GIF[:13], PLAIN_GIF[:13], id="GIF that ends behind its head"),
        pytest.param(PLAIN_GIF[:6], PLAIN_GIF[:6], id="GIF of a signature"),
        pytest.param(ANIMATED_WEBP, ANIMATED_WEBP, id="another format"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_what_makes_no_pixels_is_left_out(data: bytes, plain: bytes) -> None:
    """What is left is the picture as the file would have it; broken files are the decoder's to judge."""
    assert plain == without_metadata(data)


@pytest.mark.parametrize(
    ("transparency", "counts"),
    [
        pytest.param(png_chunk(b"tRNS", bytes(6)), True, id="right"),
        pytest.param(png_chunk(b"tRNS", bytes(2)), False, id="too short"),
        pytest.param(png_chunk(b"tRNS", bytes(8)), False, id="too long"),
        pytest.param(png_chunk(b"tRNS", bytes(6))[:-1] + b"!", False, id="a wrong checksum"),
    ],
)
def test_broken_transparency_does_not_count(transparency: bytes, *, counts: bool) -> None:
    """A broken chunk makes nothing transparent, and refuses nothing."""
    assert (png_with(transparency) if counts else PNG) == without_metadata(png_with(transparency))


def test_transparency_counts_once_and_in_front() -> None:
    """A second chunk, or one behind the image data, is not looked at."""
    first, second = png_chunk(b"tRNS", bytes(6)), png_chunk(b"tRNS", b"\0\1" * 3)

    assert png_with(first) == without_metadata(png_with(first + second))
    assert PNG == without_metadata(PNG[:-12] + first + PNG[-12:])


@given(st.sampled_from([PNG, PLAIN_GIF]), st.integers(0, 60), st.binary(max_size=60))
def test_any_file_is_made_plain_or_refused(data: bytes, position: int, inserted: bytes) -> None:
    """For any bytes: a file that is plain already, or InvalidImage."""
    try:
        plain = without_metadata(data[:position] + inserted + data[position:])
    except InvalidImage:
        return

    assert plain == without_metadata(plain)


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
