"""What decoding takes, in a process of its own that is asked for its peak: the budget's numbers are measured ones."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.images.decoding.pillow import WEBP_PIXEL_BYTES
from core.images.decoding.pixels import DEFAULT_MAX_DECODER_BYTES
from tools.testbed.handmade import BI_RLE8, RGB, bmp, png
from tools.testbed.hostile_images import png_chunk, webp_with_canvas
from tools.testbed.pictures import encoded

SIDE_PX = 4000
# Bands, copies of the file, an allocator's rounding: what does not grow with the picture.
SLACK_BYTES = 48 * 1024 * 1024

PEAK = """
import sys
from pathlib import Path
from core.images.decoding.pixels import PixelDecoder
from core.images.decoding.strict_decoding import prepare_decoders

def status(name):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024

prepare_decoders()
data = Path(sys.argv[1]).read_bytes()
before = status("VmRSS")
PixelDecoder(224, 50_000_000).decode(data)
print(status("VmHWM") - before)
"""

STARVED = """
import resource, sys
from pathlib import Path
from core.errors import ImageTooLarge
from core.images.decoding.pixels import PixelDecoder

data = Path(sys.argv[1]).read_bytes()
[used] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")]
limit = int(used.split()[1]) * 1024 + 30_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    PixelDecoder(224, 50_000_000).decode(data)
except ImageTooLarge as error:
    print(error.message)
"""


def colour(mode: str) -> Image.Image:
    return Image.new(mode, (SIDE_PX, SIDE_PX), 7)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(colour("RGB"), "PNG", exif=exif)


def deep_keyed() -> bytes:
    samples = np.zeros((SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    return png(samples, RGB, 16, before_data=png_chunk(b"tRNS", bytes(6)))


def compressed_bmp() -> bytes:
    rows = (b"\xff\7" * (SIDE_PX // 255) + bytes([SIDE_PX % 255, 7]) + b"\0\0") * SIDE_PX
    return bmp(rows, SIDE_PX, SIDE_PX, 8, compression=BI_RLE8, palette=bytes(1024))


def output_of(program: str, data: bytes, directory: Path) -> str:
    file = directory / "picture"
    file.write_bytes(data)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(file)], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("make", "bytes_per_pixel"),
    [
        pytest.param(lambda: encoded(colour("RGB"), "JPEG"), 1, id="JPEG, one scan"),
        pytest.param(lambda: encoded(colour("RGB"), "JPEG", progressive=True, subsampling=0), 6.2, id="progressive"),
        pytest.param(lambda: encoded(colour("CMYK"), "JPEG", progressive=True), 8.5, id="progressive with inks"),
        pytest.param(lambda: encoded(colour("CMYK"), "JPEG", subsampling=2), 1, id="inks of odd sampling"),
        pytest.param(lambda: encoded(colour("RGB"), "PNG"), 4, id="PNG"),
        pytest.param(lambda: encoded(colour("RGBA"), "PNG"), 4, id="PNG with transparency"),
        pytest.param(turned, 4, id="PNG on its side"),
        pytest.param(lambda: encoded(colour("P"), "PNG", transparency=7), 1, id="palette with transparency"),
        pytest.param(lambda: encoded(colour("I;16"), "PNG"), 2, id="16-bit PNG"),
        pytest.param(deep_keyed, 8, id="16-bit PNG with a transparent colour"),
        pytest.param(lambda: encoded(colour("P"), "GIF"), 1, id="GIF"),
        pytest.param(lambda: encoded(colour("P"), "BMP"), 1, id="BMP with a palette"),
        pytest.param(lambda: encoded(colour("RGB"), "BMP"), 4, id="BMP"),
        pytest.param(compressed_bmp, 3, id="compressed BMP"),
        pytest.param(lambda: encoded(colour("RGBA"), "WEBP", method=0), 16, id="WebP"),
        pytest.param(lambda: encoded(colour("RGBA"), "AVIF", speed=10, subsampling="4:4:4"), 16, id="AVIF"),
    ],
)
def test_peak_is_within_what_is_counted(make: Callable[[], bytes], bytes_per_pixel: float, tmp_path: Path) -> None:
    """No format takes more than its bytes per pixel, flattening, turning and resizing included."""
    peak_bytes = int(output_of(PEAK, make(), tmp_path))

    assert peak_bytes <= SIDE_PX**2 * bytes_per_pixel + SLACK_BYTES


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: encoded(colour("RGB"), "JPEG", progressive=True, subsampling=0), id="libjpeg-turbo"),
        pytest.param(lambda: encoded(colour("RGB"), "PNG"), id="Pillow"),
    ],
)
def test_memory_that_is_refused_is_too_large(make: Callable[[], bytes], tmp_path: Path) -> None:
    """A decoder that gets no memory from the system says so in its own way; the caller hears one thing."""
    assert f"decoding the image needs more memory than {DEFAULT_MAX_DECODER_BYTES} bytes\n" == output_of(
        STARVED, make(), tmp_path
    )


def test_a_canvas_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    """144 megapixels in 300 bytes: where no memory is to be had for them, they are refused for their size."""
    message = output_of(STARVED, webp_with_canvas(12_000, 12_000), tmp_path)

    assert "the image has more than 50000000 pixels\n" == message


def test_fifty_megapixels_fit_in_every_format() -> None:
    """The default budget is made for the default limit on pixels and the most expensive format."""
    assert 50_000_000 * WEBP_PIXEL_BYTES <= DEFAULT_MAX_DECODER_BYTES
