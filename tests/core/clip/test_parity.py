"""The same vectors as transformers' own CLIPModel and processor, on the same weights.

The error is relative to the spread, the mean distance between the vectors of different inputs: on random weights all
images look alike to cosine, and a cosine near one would prove nothing.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from core.clip.artifact import ModelDirectory
from core.clip.choice import Choice, load_engines
from core.clip.engine import Engine
from core.clip.reference import load_reference
from core.clip.tokenizer import ClipTokenizer
from core.clip.weights import read_weights
from core.images.decoding.pixels import PixelDecoder
from core.process import cpu
from core.settings import load_settings
from models.shapes import COLOURS, SHAPES, draw, single
from tools.testbed.pictures import encoded, natural

Vectors = npt.NDArray[np.float32]

# DESIGN: what a numeric type may change, relative to the spread.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2.5e-2}
# What our decoder and resize may change on top of that.
PIXEL_TOLERANCE = 1e-2

TEXTS = [
    "a red circle",
    "a blue square",
    "x",
    "a person walking in the rain",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    "雨の中を歩く人 🌧",
    "a small green triangle on the left of a large yellow circle, seen from above " * 2,
    "far too long for the model " * 40,
]


@cache
def pictures() -> list[Image.Image]:
    """Drawings and natural-looking pictures of several sizes and shapes, none of them the model's own size."""
    kinds = [(colour, form) for colour in COLOURS for form in SHAPES][::2]
    drawings = [draw(single(*kind, aspect=0.6 + 0.3 * number), 180 + 40 * number) for number, kind in enumerate(kinds)]
    return [*drawings, *(natural(300 + 90 * number, 400, number) for number in range(6))]


@dataclass(frozen=True)
class Reference:
    """transformers itself, in float32."""

    model: CLIPModel
    processor: Any

    def images(self, images: list[Image.Image]) -> Vectors:
        inputs = self.processor(images=images, return_tensors="pt")
        with torch.inference_mode():
            rows: Vectors = self.model.get_image_features(**inputs).pooler_output.numpy()
        return rows

    def texts(self, texts: list[str]) -> Vectors:
        inputs = self.processor(text=texts, return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            rows: Vectors = self.model.get_text_features(**inputs).pooler_output.numpy()
        return rows


@dataclass(frozen=True)
class Expected:
    """What it says of the pictures, of the same in the model's own size, and of the texts."""

    pictures: Vectors
    ready: Vectors
    texts: Vectors


@pytest.fixture(scope="module")
def expected(directory: ModelDirectory) -> Expected:
    reference = Reference(load_reference(directory), CLIPProcessor.from_pretrained(directory.path))
    ready = [picture.resize((directory.size_px, directory.size_px)) for picture in pictures()]
    return Expected(reference.images(pictures()), reference.images(ready), reference.texts(TEXTS))


@pytest.fixture(scope="module", params=["torch", "openvino"])
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engine(
    request: pytest.FixtureRequest,
    engine_name: str,
    directory: ModelDirectory,
    tmp_path_factory: pytest.TempPathFactory,
) -> Engine:
    """Every engine in every numeric type that this machine has."""
    if request.param == "bfloat16" and not cpu.has_bfloat16():
        pytest.skip("this processor has no bfloat16")
    environ = {
        "ALLOW_INSECURE_AUTH": "1",
        "CLIP_DEVICE": "cpu",
        "CLIP_ENGINE": engine_name,
        "CLIP_DTYPE": request.param,
        "CLIP_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "models"),
    }
    settings = load_settings(environ)
    [engine] = load_engines(
        settings,
        directory,
        choice=Choice.of(settings),
        read=lambda: read_weights(directory),
        identify=lambda: directory.path.name,
    )
    return engine


def relative_error(expected: Vectors, actual: Vectors) -> float:
    """Mean distance of the pairs, relative to the mean distance between different expected rows."""
    spread = np.mean([np.linalg.norm(one - other) for one, other in combinations(expected, 2)])
    return float(np.mean(np.linalg.norm(expected - actual, axis=1)) / spread)


def test_images_equal_transformers(directory: ModelDirectory, expected: Expected, engine: Engine) -> None:
    """Image bytes through our decoder and engine give transformers' vectors."""
    decoder = PixelDecoder(directory.size_px, max_pixels=10_000_000)
    pixels = np.stack([decoder.decode(encoded(picture, "PNG")) for picture in pictures()])

    error = relative_error(expected.pictures, engine.encode_images(pixels))

    assert error < TOLERANCE[engine.dtype] + PIXEL_TOLERANCE


def test_same_pixels_give_the_same_vectors(directory: ModelDirectory, expected: Expected, engine: Engine) -> None:
    """With no resize in between, only the numeric type makes a difference."""
    size_px = directory.size_px
    ready = [picture.resize((size_px, size_px)) for picture in pictures()]
    pixels = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in ready])

    error = relative_error(expected.ready, engine.encode_images(pixels))

    assert error < TOLERANCE[engine.dtype]


def test_texts_equal_transformers(directory: ModelDirectory, expected: Expected, engine: Engine) -> None:
    """Short buckets, no attention mask and our own truncation change nothing, in one batch and one by one."""
    tokenizer = ClipTokenizer(directory.tokenizer_path, directory.context_length)
    tokens = [tokenizer.encode(text)[0] for text in TEXTS]

    together = engine.encode_texts(tokenizer.pad(tokens))
    alone = np.concatenate([engine.encode_texts(tokenizer.pad([ids])) for ids in tokens])

    assert relative_error(expected.texts, together) < TOLERANCE[engine.dtype]
    assert relative_error(expected.texts, alone) < TOLERANCE[engine.dtype]


def test_swapped_channels_are_noticed(directory: ModelDirectory, expected: Expected, engine: Engine) -> None:
    """The tolerance is tight enough to tell BGR from RGB: this test can fail."""
    size_px = directory.size_px
    ready = [picture.resize((size_px, size_px)) for picture in pictures()]
    swapped = np.stack([np.asarray(picture)[..., ::-1].transpose(2, 0, 1) for picture in ready])

    error = relative_error(expected.ready, engine.encode_images(np.ascontiguousarray(swapped)))

    assert error > 2 * (TOLERANCE[engine.dtype] + PIXEL_TOLERANCE)
