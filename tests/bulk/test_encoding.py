"""Pixels and texts to vectors: the service's own, row by row."""

from dataclasses import replace

import numpy as np
import pytest

from bulk.encoding import Encoder
from bulk.outcomes import Reject
from core.clip.engine import Engine, Pixels, Vectors
from core.clip.loading import LoadedModel, load_model
from core.settings import ServiceSettings, load_settings
from tools.testbed.process import MODEL_CACHE, TINY_MODEL

# Relative to the length of a vector: batches of different sizes add in a different order.
TOLERANCE = 1e-4
SKIPPED = Reject("INVALID_IMAGE", "no image", retryable=False)


@pytest.fixture(scope="module")
def settings() -> ServiceSettings:
    return load_settings(
        {
            "CLIP_MODEL": str(TINY_MODEL),
            "CLIP_CACHE_DIR": str(MODEL_CACHE),
            "CLIP_DEVICE": "cpu",
            "CLIP_DTYPE": "float32",
            "ALLOW_INSECURE_AUTH": "1",
        }
    )


@pytest.fixture(scope="module")
def encoder(settings: ServiceSettings) -> Encoder:
    return Encoder(settings)


def pixels_of(encoder: Encoder, count: int) -> Pixels:
    shape = (count, 3, encoder.size_px, encoder.size_px)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_rows_are_what_they_are_alone(encoder: Encoder) -> None:
    """Whatever is beside them, over as many passes as they take; each of length 1."""
    pixels = pixels_of(encoder, 70)
    rejects = [SKIPPED if number % 7 == 3 else None for number in range(70)]

    vectors, found = encoder.encode_images(pixels, rejects)

    assert rejects == found
    for number in (0, 4, 33, 69):
        [alone], _ = encoder.encode_images(pixels[number : number + 1], [None])
        assert float(np.linalg.norm(alone - vectors[number])) < TOLERANCE
        assert 1.0 == pytest.approx(float(np.linalg.norm(alone)), abs=1e-5)
    assert not vectors[3].any()


def test_texts_keep_their_places(encoder: Encoder) -> None:
    """Long beside short ones; a row without text is that row's reject, and a text that is too long is cut."""
    texts = ["a red circle", None, "", "a blue square " * 40, "x" * 100_000, "a red circle"]

    vectors, rejects = encoder.encode_texts(texts)

    assert [None, "VALIDATION_ERROR", "VALIDATION_ERROR", None, "VALIDATION_ERROR", None] == [
        reject and reject.code for reject in rejects
    ]
    assert float(np.linalg.norm(vectors[0] - vectors[5])) < TOLERANCE
    [alone], _ = encoder.encode_texts(["a blue square " * 40])
    assert float(np.linalg.norm(vectors[3] - alone)) < TOLERANCE
    assert "there is nothing in this row" == getattr(rejects[1], "message", None)


class Poisoned:
    """An engine that fails on a batch with a certain picture in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.device, self.dtype = engine.name, engine.device, engine.dtype
        self.out_of_memory = engine.out_of_memory
        self.prepare_thread = engine.prepare_thread
        self.encode_texts = engine.encode_texts

    def encode_images(self, pixels: Pixels) -> Vectors:
        if (pixels == 77).all(axis=(1, 2, 3)).any():
            raise RuntimeError("poison")
        return self._engine.encode_images(pixels)


def test_a_row_that_fails_fails_alone(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its pass have their vectors."""

    def load(settings: ServiceSettings, *, pixel_rules: int) -> LoadedModel:
        model = load_model(settings, pixel_rules=pixel_rules)
        return replace(model, engines=[Poisoned(model.engines[0])])

    monkeypatch.setattr("bulk.encoding.load_model", load)
    encoder = Encoder(settings)
    pixels = pixels_of(encoder, 8)
    pixels[5] = 77

    vectors, rejects = encoder.encode_images(pixels, [None] * 8)

    assert [None] * 5 + ["INFERENCE_ERROR"] + [None] * 2 == [reject and reject.code for reject in rejects]
    assert not vectors[5].any()
    assert 7 == int(vectors.any(axis=1).sum())
