"""Warnings of the image decoder, in a process of its own: the filter is the process's."""

import subprocess
import sys

PROGRAM = """
import io
from PIL import Image
from core.errors import InvalidImage
from core.images.pixels import PixelDecoder
from core.images.strict_decoding import refuse_what_decoders_warn_of

buffer = io.BytesIO()
Image.new("RGB", (300, 300)).save(buffer, "JPEG", exif=b"Exif\\0\\0II*\\0\\x08\\0\\0\\0\\x09\\0")
decoder = PixelDecoder(224, 1_000_000)
print(decoder.decode(buffer.getvalue()).shape)
refuse_what_decoders_warn_of()
try:
    decoder.decode(buffer.getvalue())
except InvalidImage as error:
    print(error.code)
"""


def test_what_the_decoder_warns_of_is_invalid() -> None:
    """A picture with a broken EXIF table decodes with a mere warning, and is refused once warnings are errors."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert "(3, 224, 224)\nINVALID_IMAGE\n" == done.stdout
