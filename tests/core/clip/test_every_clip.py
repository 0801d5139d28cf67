"""Every CLIP in its true widths, patches and image sizes, two layers deep: transformers' vectors of images and texts.

Through the whole way that serves them: a directory, its fingerprint, its tokenizer and decoder, each engine in each
numeric type. `python -m bench.parity` does it in full depth.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from bench.arithmetic import relative_error
from bench.clips import CLIPS, CONTEXT_LENGTH, Clip, make
from bench.parity import TOLERANCE, ways
from core.clip.loading import LoadedModel, load_model
from core.images.decoding.pixels import PixelDecoder
from core.settings import load_settings
from models.shapes import draw, single
from tools.testbed.pictures import encoded, natural

Vectors = npt.NDArray[np.float32]

_LAYERS = 2
# Of a text's tokens: more would only make files larger.
_VOCABULARY = 1000
# What our decoder and resize may change on top of a numeric type.
_PIXEL_TOLERANCE = 1e-2

# OpenCLIP's files name the first, OpenAI's the second.
_PADDING = ("!", "<|endoftext|>")

TEXTS = ["a red circle", "x", "two blue squares " * 4, "far too long for the model " * 40]


@dataclass(frozen=True)
class Made:
    """A model on disk, and what transformers says of it."""

    clip: Clip
    path: Path
    images: Vectors
    texts: Mapping[str, Vectors]
    """By what they were padded with."""


@pytest.fixture(scope="module", params=CLIPS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """One after the other: each is some hundred megabytes."""
    clip = CLIPS[request.param]
    path: Path = tmp_path_factory.mktemp("clip")
    model = make(clip, path / "model", layers=_LAYERS, vocabulary=_VOCABULARY)
    texts = {token: texts_of(model, path / "model", padding=token) for token in _PADDING}
    yield Made(clip, path, images_of(model, path / "model"), texts)
    shutil.rmtree(path)


def pictures() -> list[Image.Image]:
    """None of them of any model's size."""
    return [draw(single("red", "circle"), 400), *(natural(360 + 90 * number, 480, number) for number in range(3))]


def images_of(model: CLIPModel, path: Path) -> Vectors:
    inputs = CLIPImageProcessor.from_pretrained(path)(images=pictures(), return_tensors="pt")
    with torch.inference_mode():
        rows: Vectors = model.get_image_features(**inputs).pooler_output.numpy()
    return rows


def texts_of(model: CLIPModel, path: Path, *, padding: str) -> Vectors:
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(path / "tokenizer.json"), pad_token=padding, model_max_length=CONTEXT_LENGTH
    )
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.inference_mode():
        rows: Vectors = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output.numpy()
    return rows


def load(made: Made, engine: str, dtype: str) -> LoadedModel:
    environ = {
        "CLIP_MODEL": str(made.path / "model"),
        "CLIP_CACHE_DIR": str(made.path / "cache"),
        "CLIP_DEVICE": "cpu",
        "CLIP_ENGINE": engine,
        "CLIP_DTYPE": dtype,
        "ALLOW_INSECURE_AUTH": "1",
    }
    return load_model(load_settings(environ), pixel_rules=1)


@pytest.mark.parametrize(("engine_name", "dtype"), ways())
def test_every_clip_gives_the_vectors_of_transformers(made: Made, engine_name: str, dtype: str) -> None:
    """Of its own dimension, from pictures that were resized to its own size, and from texts however they are padded."""
    loaded = load(made, engine_name, dtype)
    [engine] = loaded.engines
    decoder = PixelDecoder(loaded.directory.size_px, max_pixels=10_000_000)
    pixels = np.stack([decoder.decode(encoded(picture, "PNG")) for picture in pictures()])
    token_ids = loaded.tokenizer.pad([loaded.tokenizer.encode(text)[0] for text in TEXTS])

    images, texts = engine.encode_images(pixels), engine.encode_texts(token_ids)

    assert (len(images), made.clip.dim) == images.shape
    assert relative_error(made.images, images) < TOLERANCE[dtype] + _PIXEL_TOLERANCE
    for theirs in made.texts.values():
        assert relative_error(theirs, texts) < TOLERANCE[dtype]
