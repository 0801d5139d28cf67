"""How Pillow treats what strangers made: set once for the whole process, by whoever decodes in it."""

import warnings

from PIL import AvifImagePlugin, Image


def prepare_decoders() -> None:
    """Make Pillow refuse what it only warns of, and leave the limits to `PixelDecoder`. For good.

    A cut-off table or a broken tag may have changed the pixels, so a warning is an exception. Not around each decode:
    `warnings.catch_warnings` changes a list that all threads share. Pillow's own limit on pixels would hide ours, and
    an AVIF would start a thread per core, each with a stack that counts as memory.
    """
    warnings.filterwarnings("error", module=r"PIL\.")
    Image.MAX_IMAGE_PIXELS = None
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
