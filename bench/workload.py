"""What the benchmarks measure with: a full-size model, natural-looking pictures."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.testbed.pictures import encoded, natural

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
_CACHE = ROOT / ".cache"
_MAKE_MODEL = ROOT.parent / "shared" / "tools" / "make_random_clip.py"

SIZES: Mapping[str, tuple[int, int]] = {"720p": (1280, 720), "1080p": (1920, 1080), "12 MP": (4000, 3000)}
# What a search page shows, and what most workers send: about 50 kB. Beside SIZES, which a whole run goes through.
THUMBNAIL = "512 px"
_ALL_SIZES = {**SIZES, THUMBNAIL: (512, 512)}
_PICTURES_PER_SIZE = 4


def full_size_model() -> Path:
    """Return a ViT-B/32 directory with random weights, made on first use (600 MB). Exits where it cannot be made."""
    target = _CACHE / "random-vit-b-32"
    if not (target / "tokenizer.json").is_file():
        if not _MAKE_MODEL.is_file():
            sys.exit(f"{_MAKE_MODEL} is not here: put a ViT-B/32 model directory at {target}")
        subprocess.run([sys.executable, _MAKE_MODEL, target], check=True)  # noqa: S603 - our own script
    return target


def picture(width: int, height: int, seed: int = 0) -> bytes:
    """A natural-looking JPEG of quality 90."""
    return encoded(natural(width, height, seed), "JPEG", quality=90)


def pictures(size: str) -> list[bytes]:
    """A few different JPEGs of a size named in `SIZES`, or thumbnails."""
    return [picture(*_ALL_SIZES[size], seed) for seed in range(_PICTURES_PER_SIZE)]
