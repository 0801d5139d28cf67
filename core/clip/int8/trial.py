"""One tower in int8, tried: rounded, written as a graph, run as it will be served, and compared with float32."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from core.clip.artifact import ModelDirectory
from core.clip.engine import Engine
from core.clip.graph_files import IMAGES, INT8, TEXTS, GraphFiles
from core.clip.int8.graphs import put_int8
from core.clip.int8.judgement import Error, Vectors, spread
from core.clip.int8.layers import Int8Tower, Samples, costs, multiplications, round_tower
from core.clip.int8.material import Halves
from core.clip.int8.selection import Layer
from core.clip.openvino_engine import OpenVinoEngine
from core.clip.openvino_export import graph_of_images, graph_of_texts, save
from core.clip.tokenizer import ClipTokenizer
from core.clip.towers import Towers
from core.clip.weights import read_weights
from core.process import cpu

# Tokens of images that a tower is calibrated on: more are gigabytes of a large model's activations.
_MOST_TOKENS = 32_768

_BATCH = 16
_ROUNDS = 5

# Each layer is a pass of the whole tower over them.
_COST_SAMPLES = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """One tower, and how to calibrate, export, and judge it: `encode` embeds what it is judged by, in order."""

    what: str
    file: str
    tower: nn.Module
    samples: Samples
    graph: Callable[[nn.Module], Any]
    encode: Callable[[Engine], Vectors]
    encode_batch: Callable[[Engine], Vectors]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of rounding all layers but those that were `left`."""

    rounded: Int8Tower
    left: Sequence[str]
    vectors: Vectors
    error: Error


def try_int8(subject: Subject, files: GraphFiles, expected: Vectors, *, leave: frozenset[str]) -> Trial:
    """Round all layers but those to `leave`, write the graph, and compare with `expected`, of what it is judged by."""
    started_s = time.monotonic()
    rounded = round_tower(subject.tower, subject.samples, leave=leave)
    graph = subject.graph(rounded.tower)
    put_int8(graph, rounded.layers)
    save(graph, files.int8 / subject.file)
    vectors = subject.encode(OpenVinoEngine(files, dtype=INT8, threads=cpu.available_cores()))
    error = Error.of(expected, vectors)
    seconds = round(time.monotonic() - started_s, 1)
    logger.info("rounded", extra={"what": subject.what, "left": len(leave), "error": error.mean, "seconds": seconds})
    return Trial(rounded, sorted(leave), vectors, error)


def each_layer(subject: Subject, whole: Trial, expected: Vectors) -> Mapping[str, Layer]:
    """Return what each layer in int8 costs alone, and what share of the work it is."""
    samples = subject.samples.first(_COST_SAMPLES)
    distance, work = spread(expected), multiplications(subject.tower, samples)
    errors, all_work = costs(subject.tower, whole.rounded, samples), sum(work.values())
    return {name: Layer(name, error / distance, work[name] / all_work) for name, error in errors.items()}


def rates(subject: Subject, *engines: Engine) -> list[float]:
    """Inputs a second in batches of sixteen; the engines take turns, and the best of each counts."""
    seconds = [[_seconds(partial(subject.encode_batch, engine)) for engine in engines] for _ in range(_ROUNDS)]
    return [_BATCH / min(of_engine) for of_engine in zip(*seconds, strict=True)]


def _seconds(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def subjects(directory: ModelDirectory, halves: Halves) -> tuple[Subject, Subject]:
    """Return the towers of images and of texts."""
    towers, tokenizer = Towers.of(directory, read_weights(directory)), ClipTokenizer.of(directory)
    judged = halves.judgement
    ids = [tokenizer.encode(text)[0] for text in judged.texts]
    images = Subject(
        "images",
        IMAGES,
        towers.images,
        _image_samples(halves.calibration.pictures, directory),
        partial(graph_of_images, size_px=directory.size_px),
        encode=lambda engine: _in_batches(engine.encode_images, judged.pictures),
        encode_batch=lambda engine: engine.encode_images(judged.pictures[:_BATCH]),
    )
    texts = Subject(
        "texts",
        TEXTS,
        towers.texts,
        _text_samples(halves.calibration.texts, tokenizer),
        graph_of_texts,
        encode=lambda engine: _in_batches(lambda some: engine.encode_texts(tokenizer.pad(some)), ids),
        encode_batch=lambda engine: engine.encode_texts(tokenizer.pad(ids[:_BATCH])),
    )
    return images, texts


def _image_samples(pictures: npt.NDArray[np.uint8], directory: ModelDirectory) -> Samples:
    vision = directory.architecture.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    return Samples(torch.from_numpy(pictures[: max(_BATCH, _MOST_TOKENS // tokens)]))


def _text_samples(texts: Sequence[str], tokenizer: ClipTokenizer) -> Samples:
    """Of each text the tokens up to its end: what stands behind that decides nothing."""
    ids = [tokenizer.encode(text)[0] for text in texts]
    batch = tokenizer.pad(ids)
    seen = np.arange(batch.shape[1]) < np.array([[len(text)] for text in ids])
    return Samples(torch.from_numpy(batch), torch.from_numpy(seen))


def _in_batches(encode: Callable[[Any], Vectors], inputs: Any) -> Vectors:  # noqa: ANN401 - an array or a list
    return np.concatenate([encode(inputs[start : start + _BATCH]) for start in range(0, len(inputs), _BATCH)])
