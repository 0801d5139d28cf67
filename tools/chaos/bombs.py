"""Files of strangers that cost a decoder time or memory: within the limits of what is decoded, and beyond them."""

from collections.abc import Mapping

from PIL import Image

from tools.testbed.hostile_images import EXIF_SEGMENT, behind_start, webp_with_canvas, with_scans
from tools.testbed.pictures import encoded

# Just what a service takes: 50 megapixels, and a hundred scans.
_WIDE_PX = 7071
_GIANT_PX = 7000
_SCANS_PX = 6000
_MOST_SCANS = 100


def slow_files() -> Mapping[str, bytes]:
    """Time: a hundred scans over 36 megapixels are decoded, more scans and half a million segments are refused."""
    flat = encoded(Image.new("RGB", (_SCANS_PX, _SCANS_PX), "olive"), "JPEG", progressive=True)
    return {
        "/scans.jpg": with_scans(_MOST_SCANS, jpeg=flat),
        "/many-scans.jpg": with_scans(10_000),
        "/segments.jpg": behind_start(EXIF_SEGMENT * 500_000),
    }


def large_files() -> Mapping[str, bytes]:
    """Memory: a canvas of 50 megapixels that a few hundred bytes claim, and 49 megapixels of one colour."""
    return {
        "/canvas.webp": webp_with_canvas(_WIDE_PX, _WIDE_PX),
        "/giant.png": encoded(Image.new("RGB", (_GIANT_PX, _GIANT_PX), "olive"), "PNG"),
    }
