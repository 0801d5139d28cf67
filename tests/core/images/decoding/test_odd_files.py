"""Files with faults that every browser passes over: the same pixels as without the fault."""

import struct
import zlib

import pytest

from core.errors import ImageError
from core.images.decoding.pixels import PixelDecoder
from tools.testbed.hostile_images import BASELINE, GIF, PNG, PROGRESSIVE, gif_with, png_chunk, png_with
from tools.testbed.pictures import encoded, natural

DECODER = PixelDecoder(48, max_pixels=1_000_000)
RESTARTS = encoded(natural(64, 48), "JPEG", restart_marker_blocks=2)
ADOBE = b"Adobe\0\x64\0\0\0\0"
# Read as YCCK, whatever was meant: what counts is that it is read so.
INKS = encoded(natural(64, 48).convert("CMYK"), "JPEG").replace(ADOBE + b"\0", ADOBE + b"\2")
WEBP = encoded(natural(64, 48), "WEBP", lossless=True)
APNG = encoded(natural(64, 48), "PNG", save_all=True, append_images=[natural(64, 48, 1)])
TABLES, FRAME, CODES, SCAN = (BASELINE.index(b"\xff" + marker) for marker in (b"\xdb", b"\xc0", b"\xc4", b"\xda"))
JFIF, BEHIND_JFIF = BASELINE[2:20], BASELINE[20:]


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_inserted(position: int, inserted: bytes, jpeg: bytes = BASELINE) -> bytes:
    return jpeg[:position] + inserted + jpeg[position:]


def frame_control(number: int, width: int, height: int, x: int) -> bytes:
    return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, x, 0, 1, 1, 0, 0))


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


EXIF = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0")
BROKEN_EXIF = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x09\1\x12")
ICC = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200))
ANIMATED = png_chunk(b"acTL", struct.pack(">II", 2, 0))

JPEGS = [
    pytest.param(with_inserted(TABLES, b"abc"), id="junk in front of the tables"),
    pytest.param(with_inserted(FRAME, b"\0" * 9), id="zeros in front of the frame"),
    pytest.param(with_inserted(SCAN, b"\xff\0ab"), id="junk in front of the scan"),
    pytest.param(with_inserted(TABLES, b"\xff" * 99), id="fill bytes"),
    pytest.param(with_inserted(TABLES, b"\xff\x01\xff\xd0"), id="markers that stand alone"),
    pytest.param(with_inserted(CODES, ICC), id="a profile behind the frame"),
    pytest.param(with_inserted(TABLES, segment(0xE2, b"ICC_PROFILE\0\3\1abc")), id="a broken profile"),
    pytest.param(BASELINE[:2] + EXIF + JFIF + BEHIND_JFIF, id="JFIF behind EXIF"),
    pytest.param(BASELINE[:2] + segment(0xED, b"x") + ICC + EXIF + JFIF + BEHIND_JFIF, id="segments in an odd order"),
    pytest.param(BASELINE[:2] + BROKEN_EXIF + JFIF + BEHIND_JFIF, id="EXIF that cannot be read"),
    pytest.param(BASELINE.replace(b"JFIF\0\1", b"JFIF\0\2"), id="an unknown version of JFIF"),
    pytest.param(BASELINE[:2] + segment(0xE0, b"JFIF\0") + BEHIND_JFIF, id="a short JFIF segment"),
    pytest.param(BASELINE[:2] + segment(0xEE, ADOBE + b"\7") + BEHIND_JFIF, id="an unknown transform of Adobe"),
    pytest.param(with_inserted(20, segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")), id="a broken list of pictures"),
    pytest.param(BASELINE + encoded(natural(64, 48, 1), "JPEG"), id="a second picture"),
    pytest.param(BASELINE + b"\0\1\xff\xda\xff\xd8" * 99, id="garbage behind the end"),
    pytest.param(BASELINE[:-2] + b"\0" * 5000 + BASELINE[-2:], id="padding in front of the end"),
    pytest.param(BASELINE[:-2] + b"\xff" * 5000 + BASELINE[-2:], id="fill bytes in front of the end"),
    pytest.param(BASELINE[:-2], id="no end"),
]


@pytest.mark.parametrize("data", JPEGS)
def test_jpeg(data: bytes) -> None:
    """Stray bytes, odd segments and what follows the picture change nothing."""
    assert (DECODER.decode(BASELINE) == DECODER.decode(data)).all()


@pytest.mark.parametrize(
    ("plain", "data"),
    [
        pytest.param(PROGRESSIVE, PROGRESSIVE[:-2] + b"\0" * 99 + PROGRESSIVE[-2:], id="progressive, padded"),
        pytest.param(RESTARTS, RESTARTS[:-2] + b"\0" * 99 + RESTARTS[-2:], id="with restarts, padded"),
        pytest.param(RESTARTS, RESTARTS[:-2], id="with restarts, no end"),
        pytest.param(INKS, INKS.replace(ADOBE + b"\2", ADOBE + b"\1"), id="inks with the transform of colours"),
    ],
)
def test_other_jpeg(plain: bytes, data: bytes) -> None:
    """The same holds for pictures of several scans, with restarts and of inks."""
    assert (DECODER.decode(plain) == DECODER.decode(data)).all()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(APNG, id="animated"),
        pytest.param(png_with(png_chunk(b"acTL", bytes(8))), id="an animation of no frames"),
        pytest.param(png_with(png_chunk(b"acTL", bytes(3))), id="a short animation control"),
        pytest.param(png_with(ANIMATED * 2), id="two animation controls"),
        pytest.param(png_with(ANIMATED), id="an animation without frames"),
        pytest.param(png_with(ANIMATED + frame_control(5, 64, 48, 0)), id="frames out of order"),
        pytest.param(png_with(ANIMATED + frame_control(0, 64, 48, 9)), id="a frame outside"),
        pytest.param(png_with(ANIMATED + frame_control(0, 32, 24, 4)), id="a smaller first frame"),
        pytest.param(png_with(png_chunk(b"fcTL", bytes(3))), id="a short frame control"),
        pytest.param(png_with(png_chunk(b"gAMA", b"\0\0\xb1\x8f")[:-1] + b"!"), id="a wrong checksum of metadata"),
        pytest.param(png_with(png_chunk(b"pHYs", b"x")), id="short metadata"),
        pytest.param(png_with(png_chunk(b"iCCP", b"x\0\0no profile")), id="a broken profile"),
        pytest.param(
            png_with(png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2_000_000)))), id="a text that unpacks"
        ),
        pytest.param(png_with(png_chunk(b"tRNS", b"x")), id="broken transparency"),
        pytest.param(png_with(png_chunk(b"prVt", b"x") * 400), id="many private chunks"),
        pytest.param(PNG + b"garbage" * 99, id="garbage behind the end"),
    ],
)
def test_png(data: bytes) -> None:
    """Animations show the picture that the file begins with, and metadata that nothing needs may be broken."""
    assert (DECODER.decode(PNG) == DECODER.decode(data)).all()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(gif_with(b"!\x42\3abc\0"), id="an unknown extension"),
        pytest.param(gif_with(b"!\x01\x0c" + bytes(12) + b"\2hi\0"), id="a text"),
        pytest.param(gif_with(b"!\xf9\2\0\0\0"), id="a short control extension"),
        pytest.param(gif_with(b"!\xf9\6\0\0\0\0\0\0\0"), id="a long control extension"),
        pytest.param(gif_with(b"!\xff\0"), id="an empty application extension"),
        pytest.param(gif_with(b"!\xff\x0bNETSCAPE2.0\1\1\0"), id="a short loop"),
        pytest.param(gif_with(b"\0\0"), id="padding"),
        pytest.param(b"GIF87a" + GIF[6:], id="the older version"),
        pytest.param(GIF[:-1], id="no trailer"),
        pytest.param(GIF + b"garbage" * 99, id="garbage behind the end"),
    ],
)
def test_gif(data: bytes) -> None:
    """Extensions of any sort are passed over."""
    assert (DECODER.decode(GIF) == DECODER.decode(data)).all()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(riff(WEBP[12:] + b"ABCD\3\0\0\0xyz\0"), id="an unknown chunk"),
        pytest.param(WEBP + b"garbage" * 99, id="garbage behind the end"),
        pytest.param(encoded(natural(64, 48), "WEBP", lossless=True, icc_profile=b"none"), id="a broken profile"),
        pytest.param(
            encoded(natural(64, 48), "WEBP", lossless=True, exif=b"Exif\0\0MM"), id="EXIF that cannot be read"
        ),
    ],
)
def test_webp(data: bytes) -> None:
    """Chunks that nothing needs are passed over."""
    assert (DECODER.decode(WEBP) == DECODER.decode(data)).all()


@pytest.mark.parametrize(
    "jpeg",
    [
        pytest.param(BASELINE, id="baseline"),
        pytest.param(PROGRESSIVE, id="progressive"),
        pytest.param(RESTARTS, id="restarts"),
    ],
)
@pytest.mark.parametrize(
    "behind", [pytest.param(b"", id="nothing behind"), pytest.param(bytes(3000), id="filled with zeros")]
)
def test_a_cut_off_jpeg_is_never_grey(jpeg: bytes, behind: bytes) -> None:
    """Wherever it is cut, it is refused; or only the end was missing, and its pixels are the same."""
    whole = DECODER.decode(jpeg)
    for length in range(2, len(jpeg)):
        try:
            pixels = DECODER.decode(jpeg[:length] + behind)
        except ImageError:
            continue
        assert (whole == pixels).all(), length
