"""How much arithmetic an image is, and how far vectors lie apart. Pure functions of numbers and arrays."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt


def image_flop(vision: Mapping[str, Any], projection_dim: int) -> float:
    """Floating point operations of one image through our image tower: its matrix products, an addition and a
    multiplication each. `vision` is `vision_config` of a model's config.json.

    The last layer works for one token alone, with keys and values of all: 7% less than the textbook's ViT-B/32.
    Norms, softmax and activations are left out, as is usual: they are under one percent.
    """
    width, inner, layers = (int(vision[name]) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    patch = int(vision["patch_size"])
    patches = (int(vision["image_size"]) // patch) ** 2
    tokens = patches + 1
    embedding = patches * 3 * patch * patch * width
    whole = tokens * (4 * width * width + 2 * width * inner) + 2 * tokens * tokens * width
    pooling = tokens * 2 * width * width + 2 * width * width + 2 * width * inner + 2 * tokens * width
    return 2.0 * (embedding + (layers - 1) * whole + pooling + width * projection_dim)


def relative_error(expected: npt.NDArray[Any], actual: npt.NDArray[Any]) -> float:
    """Mean distance between rows that belong together, relative to the mean distance between rows that do not.

    Of (n, dim) arrays, n at least 2. On random weights all images look alike to cosine; the spread is the measure.
    """
    spread = np.mean([np.linalg.norm(one - other) for one, other in combinations(expected, 2)])
    return float(np.mean(np.linalg.norm(expected - actual, axis=1)) / spread)
