"""JPEG heads: size and orientation are found, and what no real picture has is refused before it is decoded."""

import io
import itertools
import random
import struct

import numpy as np
import pytest
import simplejpeg  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.errors import InvalidImage
from core.images.decoding import jpeg
from core.images.decoding.geometry import Turn
from tools.testbed.handmade import grey_jpeg
from tools.testbed.hostile_images import BASELINE, EXIF_SEGMENT, PROGRESSIVE, behind_start, with_scans
from tools.testbed.pictures import encoded, natural

COMMENT = b"\xff\xfe\x00\x02"
HIDDEN_END = b"\xff\xfe\x00\x04\xff\xd9"


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize(
    ("mode", "components"),
    [pytest.param("L", 1, id="grey"), pytest.param("RGB", 3, id="colour"), pytest.param("CMYK", 4, id="inks")],
)
def test_head_is_read(mode: str, components: int, progressive: bool) -> None:
    """Size, components and orientation stand in front of the first scan."""
    image = natural(70, 50).convert(mode)
    data = encoded(image, "JPEG", progressive=progressive, exif=orientation(6))

    assert jpeg.Jpeg(
        70, 50, components, Turn(flips_y=True, transposes=True), several_scans=progressive
    ) == jpeg.read_head(data)


def test_first_exif_counts() -> None:
    """A second EXIF block does not turn the picture again."""
    data = encoded(natural(70, 50), "JPEG", exif=orientation(3))
    second = orientation(6)
    with_both = data.replace(b"\xff\xdb", b"\xff\xe1" + struct.pack(">H", len(second) + 2) + second + b"\xff\xdb", 1)

    assert jpeg.read_head(data) == jpeg.read_head(with_both)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(behind_start(EXIF_SEGMENT * 1000), "1000 segments", id="many EXIF segments"),
        pytest.param(behind_start(COMMENT * 1000), "1000 segments", id="many comments"),
        pytest.param(behind_start(b"\xff\xd0" * 1000), "1000 segments", id="many restarts"),
        pytest.param(behind_start(b"\xff" * 70_000), "padded", id="fill bytes"),
        pytest.param(behind_start(b"\xff\0" * 40_000), "padded", id="stuffed zeros"),
        pytest.param(behind_start((b"\xff" * 700 + COMMENT) * 100), "padded", id="fill bytes between segments"),
        pytest.param(behind_start(b"\xff\xf0\xff\xff"), "unknown kind", id="a segment that libjpeg refuses"),
        pytest.param(behind_start(b"\xff\xe0\0\1"), "broken segment", id="a segment shorter than its length"),
        pytest.param(behind_start(b"\xff\xc0\0\2"), "broken frame", id="an empty frame"),
        pytest.param(with_scans(101), "100 scans", id="many scans"),
        pytest.param(with_scans(101, HIDDEN_END), "100 scans", id="many scans behind an end inside a comment"),
        pytest.param(with_scans(101, COMMENT * 1000), "1000 segments", id="many comments between scans"),
        pytest.param(BASELINE[:100], "broken segment", id="cut off in a segment"),
        pytest.param(BASELINE[:2] + BASELINE[-2:], "unknown kind", id="nothing inside"),
    ],
)
def test_refused(data: bytes, words: str) -> None:
    """A structure that no real picture has is refused, and the message says which."""
    with pytest.raises(InvalidImage, match=words):
        jpeg.read_head(data)


def test_hundred_scans_are_allowed() -> None:
    """The limit is the last number of scans that passes, and a thousandth segment the first that does not."""
    jpeg.read_head(with_scans(jpeg.MAX_SCANS))
    jpeg.read_head(behind_start(COMMENT * (jpeg.MAX_SEGMENTS - 30)))


def test_what_follows_the_picture_is_not_counted() -> None:
    """A film behind the picture, as phones write it, holds the bytes of a scan by chance."""
    film = random.Random(0).randbytes(10_000)  # noqa: S311 - seeds, not secrecy

    assert jpeg.read_head(PROGRESSIVE) == jpeg.read_head(PROGRESSIVE + film + b"\xff\xda" * 300)


def test_scans_in_metadata_are_not_counted() -> None:
    """A comment may hold the bytes of a scan as often as it likes."""
    comment = b"\xff\xda" * 300
    data = behind_start(b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment, PROGRESSIVE)

    assert jpeg.read_head(PROGRESSIVE) == jpeg.read_head(data)


@pytest.mark.parametrize(
    ("short", "scale"),
    [
        pytest.param(895, 8, id="below twice the double"),
        pytest.param(896, 4, id="twice the double"),
        pytest.param(1791, 4, id="below four times the double"),
        pytest.param(1792, 2, id="four times the double"),
        pytest.param(3584, 1, id="eight times the double"),
        pytest.param(50_000, 1, id="far larger"),
        pytest.param(512, 8, id="a thumbnail, never at seven eighths"),
    ],
)
def test_scale_keeps_twice_the_target(short: int, scale: int) -> None:
    """Full, half, quarter or eighth: the smallest that leaves 448 pixels for 224."""
    assert scale == jpeg.scale_for(jpeg.Jpeg(short, short * 2, 3, Turn(), several_scans=False), 224)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_scaled_size_is_rounded_up(mode: str, scale: int) -> None:
    """Each scale gives the size that the resize counts with."""
    data = encoded(natural(901, 1203).convert(mode), "JPEG")

    pixels = jpeg.decode(data, jpeg.read_head(data), scale)

    assert (-(-1203 * scale // 8), -(-901 * scale // 8), 3) == pixels.shape


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b"\xff", b"\xda", b"\0\2", b"\xc0", b"\xe1"])).map(b"".join))
def test_any_head_is_read_or_refused(body: bytes) -> None:
    """For any bytes behind the signature: a head or InvalidImage."""
    try:
        jpeg.read_head(jpeg.SIGNATURE + body)
    except InvalidImage:
        return


def samplings(components: int) -> list[bytes]:
    """All that one scan can have: ten blocks of samples in a unit."""
    factors = [across << 4 | down for across in range(1, 5) for down in range(1, 5)]
    return [
        bytes(one)
        for one in itertools.product(factors, repeat=components)
        if components == 1 or sum((each >> 4) * (each & 15) for each in one) <= 10
    ]


def has_a_name(data: bytes) -> bool:
    # It has no word for what TurboJPEG calls 4:4:1.
    try:
        simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):
        return False
    return True


def pillow_reads(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("components", [1, 3, 4])
def test_odd_is_what_turbojpeg_has_no_name_for(components: int) -> None:
    """The list is the library's: a new version may know more, and what it does not know must not be given to it."""
    files = {sampling.hex(): grey_jpeg(sampling, 40, 24) for sampling in samplings(components)}

    assert [name for name, data in files.items() if not has_a_name(data)] == [
        name for name, data in files.items() if jpeg.read_head(data).odd_sampling
    ]


@pytest.mark.parametrize("components", [1, 3, 4])
def test_any_sampling_is_decoded(components: int) -> None:
    """What libjpeg can decode is decoded: with a name or without, at full size and reduced, rounded up."""
    seen = set()
    for sampling in samplings(components):
        data = grey_jpeg(sampling, 41, 25)
        if pillow_reads(data):
            head = jpeg.read_head(data)
            for scale in (1, 2, 4, 8):
                pixels = jpeg.decode(data, head, scale)
                assert (-(-25 * scale // 8), -(-41 * scale // 8), 3) == pixels.shape
                seen.add(tuple(np.unique(pixels)))

    assert 1 == len(seen)


@pytest.mark.parametrize("subsampling", [1, 2])
@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_inks_of_odd_sampling(subsampling: int, progressive: bool) -> None:
    """As Pillow writes inks when it is asked to save bytes: nearly the picture of those with all samples."""
    image = natural(120, 80).convert("CMYK")
    whole, odd = (
        encoded(image, "JPEG", quality=95, progressive=progressive, subsampling=how) for how in (0, subsampling)
    )
    pixels = [jpeg.decode(data, jpeg.read_head(data), 8).astype(int) for data in (whole, odd)]

    assert (False, True) == (jpeg.read_head(whole).odd_sampling, jpeg.read_head(odd).odd_sampling)
    assert np.abs(pixels[0] - pixels[1]).mean() < 4


def test_half_of_an_odd_sampling_is_refused() -> None:
    """Of such a file the decoder says, too, that it is cut off."""
    data = encoded(natural(120, 80).convert("CMYK"), "JPEG", subsampling=2)

    with pytest.raises(OSError, match="truncated"):
        jpeg.decode(data[: len(data) // 2], jpeg.read_head(data), 8)
