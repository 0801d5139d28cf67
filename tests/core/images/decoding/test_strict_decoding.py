"""Warnings of the image decoder, in a process of its own: the filter is the process's."""

import subprocess
import sys

PROGRAM = """
import io
from PIL import Image, PngImagePlugin
from core.images.decoding.strict_decoding import prepare_decoders

animation_of_nothing = PngImagePlugin.PngInfo()
animation_of_nothing.add(b"acTL", bytes(8))
buffer = io.BytesIO()
Image.new("RGB", (300, 300)).save(buffer, "PNG", pnginfo=animation_of_nothing)
print(Image.open(buffer).size)
prepare_decoders()
try:
    Image.open(buffer)
except UserWarning as warning:
    print(warning)
"""

# Between Pillow's warning at 89 megapixels and its error at 179, and above both.
LARGE = """
import io
from PIL import Image
from core.errors import ImageError
from core.images.decoding.pixels import PixelDecoder
from core.images.decoding.strict_decoding import prepare_decoders

prepare_decoders()
for height in (10_000, 20_000):
    buffer = io.BytesIO()
    Image.new("1", (10_000, height)).save(buffer, "PNG")
    for max_pixels in (50_000_000, 250_000_000):
        try:
            print(PixelDecoder(224, max_pixels).decode(buffer.getvalue()).shape)
        except ImageError as error:
            print(error.code, error.message)
"""


def output_of(program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_the_decoder_warns_of_is_an_error() -> None:
    """Pillow opens a picture with a mere warning, and does not once warnings are errors."""
    assert "(300, 300)\nInvalid APNG, will use default PNG image if possible\n" == output_of(PROGRAM)


def test_the_limit_on_pixels_is_ours_alone() -> None:
    """Where Pillow would warn or refuse, our limit decides: over it is IMAGE_TOO_LARGE, under it is decoded."""
    refused = "IMAGE_TOO_LARGE the image has more than 50000000 pixels"

    assert f"{refused}\n(3, 224, 224)\n" * 2 == output_of(LARGE)
