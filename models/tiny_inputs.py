"""Turns images and texts into what a CLIP takes: pixels as CLIP's reference prepares them, and padded ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer

from models.tiny_tokenizer import END, MAX_TOKENS

SIDE_PX = 224
# Channel means and deviations that CLIP's vision tower expects (its preprocessor_config.json).
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

PREPROCESSOR_CONFIG: dict[str, Any] = {
    "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(MEAN),
    "image_processor_type": "CLIPImageProcessor",
    "image_std": list(STD),
    "processor_class": "CLIPProcessor",
    "resample": int(Image.Resampling.BICUBIC),
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": SIDE_PX},
}


def crop(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Shortest side to 224 (antialiased bicubic), then the centre square: uint8 [224, 224, 3]."""
    image = image.convert("RGB")
    shortest = min(image.size)
    width, height = (int(SIDE_PX * side / shortest) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIDE_PX) // 2, (height - SIDE_PX) // 2
    return np.asarray(image.crop((left, top, left + SIDE_PX, top + SIDE_PX)))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 224, 224, 3] to float32 [n, 3, 224, 224] with CLIP's mean and deviation."""
    # In place: touching fresh memory takes several times as long as the arithmetic.
    scaled = pixels.permute(0, 3, 1, 2).float().div_(255)
    return scaled.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


def pixel_values(images: Sequence[Image.Image]) -> torch.Tensor:
    """Images of any size to float32 [n, 3, 224, 224]."""
    return normalise(torch.from_numpy(np.stack([crop(image) for image in images])))


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """int64 [n, longest], filled up with the end token; cut to 77 tokens, the last still the end token."""
    end = tokenizer.token_to_id(END)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    cut = [row if len(row) <= MAX_TOKENS else [*row[: MAX_TOKENS - 1], end] for row in rows]
    longest = max(map(len, cut))
    return torch.tensor([row + [end] * (longest - len(row)) for row in cut])
