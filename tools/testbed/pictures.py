"""Pictures to embed: natural-looking ones, with structure at several scales as photographs have."""

import io

import numpy as np
from PIL import Image

# Cells per side of each layer of colour noise, and its weight: coarse structure is strong, fine is weak.
_LAYERS = ((4, 1.0), (16, 0.5), (64, 0.25), (256, 0.1))


def natural(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB picture; the same arguments give the same pixels."""
    rng = np.random.default_rng([seed, width, height])
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in _LAYERS:
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) * weight
    return Image.fromarray((total / sum(weight for _, weight in _LAYERS)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    """The image as a file of some format; `options` are Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
