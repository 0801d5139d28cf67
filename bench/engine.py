"""The ceilings: what the engine alone and the decoder alone reach, loaded and threaded as the service does it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from bench.compare import DECODE, ENGINE, IMAGES, TEXTS
from bench.figures import Row
from bench.timing import calls_per_s
from core.clip.artifact import open_model
from core.clip.loading import LoadedModel, load_model
from core.images.decoding.pixels import PixelDecoder
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.process import cpu
from core.settings import ServiceSettings

_IMAGE_BATCHES = (1, 16, 32)
_TOKEN_LENGTHS = (8, 12, 77)
_TEXT_BATCH = 16
_DECODES_PER_CALL = 16


def load(settings: ServiceSettings) -> LoadedModel:
    """The model and its engines, by the pixel rules of this checkout."""
    return load_model(settings, pixel_rules=PIXEL_RULES_VERSION)


def measure_engine(settings: ServiceSettings, seconds: float) -> list[Row]:
    """Rates of both towers at fixed batches, no decoding and no network. Call it in a process of its own."""
    model = load(settings)
    engine, size_px = model.engines[0], model.directory.size_px
    # As on the service's device thread.
    torch.set_num_threads(cpu.available_cores())
    rng = np.random.default_rng(0)
    rows = []
    for batch in _IMAGE_BATCHES:
        pixels = rng.integers(0, 256, (batch, 3, size_px, size_px), dtype=np.uint8)
        rate = batch * calls_per_s(lambda pixels=pixels: engine.encode_images(pixels), seconds)  # type: ignore[misc]
        rows.append(Row(ENGINE, f"images, batch {batch}", rate, "images/s", IMAGES))
    for length in _TOKEN_LENGTHS:
        ids = rng.integers(1000, 40_000, (_TEXT_BATCH, length), dtype=np.int64)
        rate = _TEXT_BATCH * calls_per_s(lambda ids=ids: engine.encode_texts(ids), seconds)  # type: ignore[misc]
        rows.append(Row(ENGINE, f"texts of {length} tokens, batch {_TEXT_BATCH}", rate, "texts/s", TEXTS))
    return rows


def measure_decode(jpegs: Mapping[str, Sequence[bytes]], settings: ServiceSettings, seconds: float) -> list[Row]:
    """Rates of JPEG bytes to model pixels, on as many threads as the service has. Call it in a process of its own."""
    decoder = PixelDecoder(open_model(settings.clip_model).size_px, settings.max_image_pixels)
    cores = cpu.available_cores()
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return [
            Row(DECODE, f"images {size}, {cores} threads", _decode_rate(pool, decoder, files, seconds), "images/s")
            for size, files in jpegs.items()
        ]


def _decode_rate(pool: ThreadPoolExecutor, decoder: PixelDecoder, files: Sequence[bytes], seconds: float) -> float:
    several = [files[number % len(files)] for number in range(_DECODES_PER_CALL)]
    return _DECODES_PER_CALL * calls_per_s(lambda: list(pool.map(decoder.decode, several)), seconds)
