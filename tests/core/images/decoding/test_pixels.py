"""Pixels: the same as Pillow's reference for every mode and orientation, and a typed refusal for the rest."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from core.errors import ImageError, ImageTooLarge, InvalidImage
from core.images.decoding.pixels import PixelDecoder
from tools.testbed import hostile_images as hostile
from tools.testbed.handmade import BI_RLE8, RGB, bmp, png, rle8
from tools.testbed.pictures import encoded, natural

SIZE_PX = 224
BICUBIC = Image.Resampling.BICUBIC
DECODER = PixelDecoder(SIZE_PX, max_pixels=4_000_000)
RED, WHITE, BLUE, GREY = (255, 0, 0), (255, 255, 255), (0, 0, 255), (128, 128, 128)


def reference(data: bytes) -> npt.NDArray[np.int16]:
    """Pillow alone: full decode, upright, antialiased bicubic, centre crop.

    Rows first, as every Pillow did when CLIP was trained; since Pillow 13 tall images are resized columns first, which
    rounds a tenth of the values the other way.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    short = min(image.size)
    width, height = SIZE_PX * image.width // short, SIZE_PX * image.height // short
    image = image.resize((width, image.height), BICUBIC).resize((width, height), BICUBIC)
    left, top = (image.width - SIZE_PX) // 2, (image.height - SIZE_PX) // 2
    crop = image.crop((left, top, left + SIZE_PX, top + SIZE_PX))
    return np.asarray(crop).transpose(2, 0, 1).astype(np.int16)


def difference(data: bytes) -> npt.NDArray[np.int16]:
    off: npt.NDArray[np.int16] = np.abs(
        PixelDecoder(SIZE_PX, max_pixels=10_000_000).decode(data).astype(np.int16) - reference(data)
    )
    return off


@pytest.mark.parametrize(
    ("width", "height"),
    [
        pytest.param(224, 224, id="the model's own size"),
        pytest.param(300, 300, id="square"),
        pytest.param(640, 360, id="wide"),
        pytest.param(301, 899, id="tall and odd"),
        pytest.param(60, 40, id="smaller than the model"),
        pytest.param(1, 1, id="one pixel"),
        pytest.param(50, 1, id="as thin as allowed"),
    ],
)
def test_png_equals_the_reference(width: int, height: int) -> None:
    """Without a reduced decode no value is off by more than two grey levels, 0.01 on average."""
    off = difference(encoded(natural(width, height), "PNG"))

    assert 2 >= off.max()
    assert 0.01 >= off.mean()


@pytest.mark.parametrize("subsampling", [0, 2], ids=["4:4:4", "4:2:0"])
@pytest.mark.parametrize(
    ("width", "height", "limit"),
    [
        pytest.param(640, 360, 0.01, id="full scale"),
        pytest.param(1280, 720, 0.5, id="720p"),
        pytest.param(1920, 1080, 0.5, id="1080p, reduced scale"),
    ],
)
def test_jpeg_is_close_to_the_reference(width: int, height: int, limit: float, subsampling: int) -> None:
    """A reduced decode of a natural picture is off by half a grey level at most, a full one by 0.01."""
    off = difference(encoded(natural(width, height), "JPEG", quality=90, subsampling=subsampling))

    assert limit >= off.mean()


def edges(width: int, height: int) -> Image.Image:
    """Light squares on dark lines, 64 pixels wide: an edge that is off by a part of a pixel is a large difference."""
    lines = (np.arange(width) // 64 % 2) & (np.arange(height)[:, None] // 64 % 2)
    return Image.fromarray((40 + 160 * lines).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize(
    ("width", "height"),
    [
        pytest.param(901, 1203, id="tall"),
        pytest.param(1203, 901, id="wide"),
        pytest.param(1001, 1999, id="half as wide as tall"),
        pytest.param(1919, 1079, id="a row and a column less than a screen"),
        pytest.param(2001, 1805, id="at a quarter"),
        pytest.param(1801, 2203, id="tall, at a quarter"),
    ],
)
def test_reduced_decode_keeps_the_geometry(width: int, height: int) -> None:
    """The target and the crop come from the original size, also where the reduced size is rounded."""
    off = difference(encoded(edges(width, height), "JPEG", quality=95))

    assert 0.6 >= off.mean()
    assert 25 >= off.max()


# Around every change of scale, and on every residue of eight: where the reduced size is rounded.
SWEEP = sorted({short + off for short in (896, 1792) for off in (-9, -1, 0, 1, 3, 7)} | {*range(450, 466, 3)})


@pytest.mark.parametrize("short", SWEEP)
def test_sizes_of_jpeg(short: int) -> None:
    """Whatever the size, the picture is scaled to the reference's size and cut where it cuts."""
    for width, height in ((short, short * 4 // 3 + 1), (short * 16 // 9, short)):
        off = difference(encoded(edges(width, height), "JPEG", quality=95))

        assert 0.8 >= off.mean(), (width, height)
        assert 30 >= off.max(), (width, height)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("width", "height"), [pytest.param(301, 500, id="odd rest"), pytest.param(1302, 901, id="odd rest, reduced JPEG")]
)
def test_turned_pictures_keep_the_geometry(width: int, height: int, file_format: str, orientation: int) -> None:
    """However a picture is stored, the crop is that of the upright one: the larger half of an odd rest is behind."""
    exif = Image.Exif()
    exif[0x0112] = orientation

    off = difference(encoded(edges(width, height), file_format, exif=exif, quality=95))

    assert 0.6 >= off.mean()
    assert 25 >= off.max()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    """All eight orientations come out upright, whichever decoder read them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 95}

    off = difference(encoded(natural(300, 400), file_format, exif=exif, **options))

    assert 0.01 >= off.mean()


def filled(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (32, 32), colour)  # type: ignore[arg-type]


def palette_with_transparency() -> bytes:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([*BLUE, *RED])
    return encoded(image, "PNG", transparency=1)


def animation(file_format: str) -> bytes:
    frames = [filled("RGB", RED), filled("RGB", BLUE)]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)


def mpo() -> bytes:
    return encoded(filled("RGB", RED), "MPO", save_all=True, append_images=[filled("RGB", BLUE)], quality=95)


@pytest.mark.parametrize(
    ("make", "colour"),
    [
        pytest.param(lambda: encoded(filled("1", 1), "PNG"), WHITE, id="one bit"),
        pytest.param(lambda: encoded(filled("L", 128), "PNG"), GREY, id="grey PNG"),
        pytest.param(lambda: encoded(filled("L", 128), "JPEG"), GREY, id="grey JPEG"),
        pytest.param(lambda: encoded(filled("I;16", 128 << 8), "PNG"), GREY, id="16-bit grey"),
        pytest.param(lambda: encoded(filled("LA", (0, 0)), "PNG"), WHITE, id="transparent grey"),
        pytest.param(lambda: encoded(filled("RGBA", (*RED, 255)), "PNG"), RED, id="opaque RGBA"),
        pytest.param(lambda: encoded(filled("RGBA", (0, 0, 0, 0)), "PNG"), WHITE, id="transparent RGBA"),
        pytest.param(lambda: encoded(filled("RGBA", (0, 0, 0, 127)), "PNG"), GREY, id="half-transparent black"),
        pytest.param(lambda: encoded(filled("RGBA", (0, 0, 0, 0)), "WEBP", lossless=True), WHITE, id="WebP alpha"),
        pytest.param(palette_with_transparency, WHITE, id="palette with transparency"),
        pytest.param(lambda: encoded(filled("P", 0), "GIF"), (0, 0, 0), id="palette"),
        pytest.param(lambda: encoded(filled("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), RED, id="CMYK JPEG"),
        pytest.param(lambda: encoded(filled("RGB", RED), "JPEG", progressive=True, quality=95), RED, id="progressive"),
        pytest.param(lambda: encoded(filled("RGB", RED), "AVIF", quality=100), RED, id="AVIF"),
        pytest.param(lambda: animation("GIF"), RED, id="animated GIF"),
        pytest.param(lambda: animation("WEBP"), RED, id="animated WebP"),
        pytest.param(lambda: animation("PNG"), RED, id="animated PNG"),
        pytest.param(mpo, RED, id="several pictures in a JPEG"),
    ],
)
def test_mode_becomes_rgb(make: Callable[[], bytes], colour: tuple[int, int, int]) -> None:
    """Every mode gives its defined colour: transparency on white, the first frame of several."""
    pixels = DECODER.decode(make()).reshape(3, -1).astype(int)

    assert np.abs(pixels.T - colour).max() <= 3


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(b"", InvalidImage, id="empty"),
        pytest.param(b"<html>not found</html>", InvalidImage, id="a web page"),
        pytest.param(b"\xff\xd8\xff", InvalidImage, id="three bytes of JPEG"),
        pytest.param(encoded(natural(64, 64), "PPM"), InvalidImage, id="a format not on the list"),
        pytest.param(encoded(natural(64, 64), "TIFF"), InvalidImage, id="TIFF"),
        pytest.param(encoded(natural(64, 64), "JPEG")[:-200], InvalidImage, id="cut-off JPEG"),
        pytest.param(encoded(natural(64, 64), "JPEG", progressive=True)[:-200], InvalidImage, id="cut-off progressive"),
        pytest.param(encoded(natural(64, 64), "PNG")[:-200], InvalidImage, id="cut-off PNG"),
        pytest.param(encoded(natural(64, 64), "WEBP")[:-200], InvalidImage, id="cut-off WebP"),
        pytest.param(encoded(natural(64, 64), "BMP")[:-200], InvalidImage, id="cut-off BMP"),
        pytest.param(bmp(b"\1\7\0\1", 64, 64, 8, compression=BI_RLE8), InvalidImage, id="BMP that ends early"),
        pytest.param(bmp(b"", 64, 64, 24, compression=4), InvalidImage, id="a JPEG in a BMP"),
        pytest.param(bmp(b"", 2001, 2000, 8, compression=BI_RLE8), ImageTooLarge, id="too many pixels of a BMP"),
        pytest.param(bmp(b"", 2000, -2001, 24), ImageTooLarge, id="too many pixels from the top down"),
        pytest.param(bmp(b"", -64, 64, 24), ImageTooLarge, id="a BMP of negative width"),
        pytest.param(bmp(b"", 1, 51, 24), ImageTooLarge, id="a BMP too thin"),
        pytest.param(bmp(b"", 0, 64, 24), InvalidImage, id="a BMP without pixels"),
        pytest.param(encoded(Image.new("1", (2001, 2000)), "PNG"), ImageTooLarge, id="too many pixels"),
        pytest.param(encoded(Image.new("1", (30_000, 30_000)), "PNG"), ImageTooLarge, id="a decompression bomb"),
        pytest.param(hostile.thin(1, 51), ImageTooLarge, id="too thin"),
        pytest.param(hostile.thin(1, 65_535), ImageTooLarge, id="far too tall"),
        pytest.param(hostile.webp_with_canvas(12_000, 12_000), ImageTooLarge, id="a canvas of 144 megapixels"),
        pytest.param(hostile.webp_with_canvas(1, 65_535), ImageTooLarge, id="a canvas far too tall"),
        pytest.param(hostile.with_scans(101), InvalidImage, id="many scans"),
        pytest.param(hostile.behind_start(hostile.EXIF_SEGMENT * 1000), InvalidImage, id="many segments"),
        pytest.param(hostile.png_with(hostile.png_chunk(b"prVt") * 20_000), InvalidImage, id="many chunks"),
        pytest.param(hostile.gif_with(b"!\xfe\0" * 300), InvalidImage, id="many comments in a GIF"),
    ],
)
def test_refused(data: bytes, error: type[ImageError]) -> None:
    """What cannot or must not be decoded is refused with its class."""
    with pytest.raises(error):
        DECODER.decode(data)


INDICES = np.random.default_rng(0).integers(0, 256, (80, 100), dtype=np.uint8)
COMPRESSED_BMP = bmp(rle8(INDICES), 100, 80, 8, compression=BI_RLE8, palette=bytes(range(256)) * 4)
DEEP_KEYED = png(
    np.zeros((80, 100, 3), dtype=np.uint16), RGB, 16, before_data=hostile.png_chunk(b"tRNS", bytes(6)), interlaced=True
)


@pytest.mark.parametrize(
    ("data", "needed_bytes"),
    [
        pytest.param(encoded(natural(100, 80), "WEBP"), 100 * 80 * 16, id="WebP"),
        pytest.param(hostile.webp_with_canvas(100, 80), 100 * 80 * 16, id="animated WebP, by its canvas"),
        pytest.param(encoded(natural(100, 80), "AVIF"), 100 * 80 * 16, id="AVIF"),
        pytest.param(encoded(natural(100, 80), "PNG"), 100 * 80 * 4, id="PNG"),
        pytest.param(DEEP_KEYED, 100 * 80 * 8, id="PNG of 16 bits with a transparent colour"),
        pytest.param(encoded(natural(100, 80), "BMP"), 100 * 80 * 4, id="BMP"),
        pytest.param(encoded(natural(100, 80).convert("P"), "BMP"), 100 * 80, id="BMP with a palette"),
        pytest.param(COMPRESSED_BMP, 100 * 80 * 3, id="compressed BMP"),
        pytest.param(encoded(natural(100, 80).convert("P"), "GIF"), 100 * 80, id="GIF"),
        pytest.param(encoded(natural(100, 80), "JPEG"), 100 * 80 * (3 * 2 + 3), id="JPEG, coefficients and pixels"),
        pytest.param(encoded(natural(100, 80).convert("L"), "JPEG"), 100 * 80 * (2 + 3), id="grey JPEG"),
    ],
)
def test_memory_is_bounded(data: bytes, needed_bytes: int) -> None:
    """What decoding takes in this format and mode is counted before it is taken."""
    enough, too_little = (PixelDecoder(SIZE_PX, 10**6, max_decoder_bytes=needed_bytes - less) for less in (0, 1))

    enough.decode(data)
    with pytest.raises(ImageTooLarge, match=f"more memory than {needed_bytes - 1} bytes"):
        too_little.decode(data)


def test_pixels_are_the_caller_s() -> None:
    """They are contiguous and own nothing of the picture that they came from."""
    pixels = DECODER.decode(encoded(natural(640, 360), "JPEG"))

    assert pixels.flags.c_contiguous
    assert (3, SIZE_PX, SIZE_PX) == pixels.shape


VALID = [encoded(natural(48, 40), file_format) for file_format in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")] + [
    COMPRESSED_BMP,
    DEEP_KEYED,
    palette_with_transparency(),
    mpo(),
    encoded(filled("CMYK", (0, 9, 9, 9)), "JPEG"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file of some format with a few bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 8))):
        position = draw(st.integers(0, len(data) - 1))
        data[position : position + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@given(mutated() | st.binary(max_size=100))
def test_any_bytes_give_pixels_or_an_image_error(data: bytes) -> None:
    """For any bytes: pixels of the right shape, or an ImageError."""
    try:
        pixels = DECODER.decode(data)
    except ImageError:
        return

    assert ((3, SIZE_PX, SIZE_PX), "uint8") == (pixels.shape, str(pixels.dtype))
