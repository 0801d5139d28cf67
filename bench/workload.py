"""What the benchmarks measure with: a full-size model, natural-looking pictures, signed requests."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
_CACHE = ROOT / "bench" / ".cache"
_MAKE_MODEL = ROOT.parent / "shared" / "tools" / "make_random_clip.py"


def full_size_model() -> Path:
    """Return a ViT-B/32 directory with random weights, made on first use (600 MB). Exits where it cannot be made."""
    target = _CACHE / "random-vit-b-32"
    if not (target / "tokenizer.json").is_file():
        if not _MAKE_MODEL.is_file():
            sys.exit(f"{_MAKE_MODEL} is not here: put a ViT-B/32 model directory at {target}")
        subprocess.run([sys.executable, _MAKE_MODEL, target], check=True)  # noqa: S603 - our own script
    return target


def picture(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG of quality 90 with structure at several scales, as a photograph has."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in ((4, 1.0), (16, 0.5), (64, 0.25), (256, 0.1)):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) * weight
    buffer = io.BytesIO()
    Image.fromarray((total / 1.85).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
