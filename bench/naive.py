"""The naive way: transformers' processor and float32 CLIPModel in process, texts padded to 77. Nothing of the core."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor
from transformers.utils.logging import disable_progress_bar

from bench.compare import IMAGES, NAIVE, NAIVE_TEXTS, TEXTS, naive_images
from bench.figures import Row
from bench.timing import calls_per_s
from bench.work import text_of
from core.process import cpu

_BATCH = 16


def measure(model: str, jpegs: Mapping[str, Sequence[bytes]], seconds: float) -> list[Row]:
    """Rates of batches of 16, from JPEG bytes of each size and from texts. Call it in a process of its own."""
    torch.set_num_threads(cpu.available_cores())
    disable_progress_bar()  # type: ignore[no-untyped-call]
    processor = CLIPProcessor.from_pretrained(model)
    clip = CLIPModel.from_pretrained(model, dtype=torch.float32).train(False)
    rows = [
        Row(NAIVE, naive_images(size), _image_rate(clip, processor, files, seconds), "images/s", IMAGES)
        for size, files in jpegs.items()
    ]
    return [*rows, Row(NAIVE, NAIVE_TEXTS, _text_rate(clip, processor, seconds), "texts/s", TEXTS)]


def _image_rate(clip: CLIPModel, processor: Any, files: Sequence[bytes], seconds: float) -> float:  # noqa: ANN401
    def embed() -> None:
        images = [Image.open(io.BytesIO(files[number % len(files)])).convert("RGB") for number in range(_BATCH)]
        with torch.inference_mode():
            clip.get_image_features(**processor(images=images, return_tensors="pt"))

    return _BATCH * calls_per_s(embed, seconds)


def _text_rate(clip: CLIPModel, processor: Any, seconds: float) -> float:  # noqa: ANN401
    texts = [text_of(number) for number in range(_BATCH)]

    def embed() -> None:
        inputs = processor(text=texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            clip.get_text_features(**inputs)

    return _BATCH * calls_per_s(embed, seconds)
