"""CLIP through OpenVINO on a CPU: bfloat16 where the processor has it, compiled once and kept on disk.

A first start exports both towers from torch, unless they were baked, and compiles them; later ones read what it left.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino  # type: ignore[import-untyped]

from core.clip.engine import Pixels, TokenIds, Vectors

if TYPE_CHECKING:
    from core.clip.towers import Towers

logger = logging.getLogger(__name__)

# Raise it when `core/clip/towers.py` would export another graph: old files are then not found any more.
_EXPORT_VERSION = 2

_IMAGES = "images.xml"
_TEXTS = "texts.xml"
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The two `graphs` of one model for one version of OpenVINO, and where it keeps them `compiled` for a processor."""

    graphs: Path
    compiled: Path

    @classmethod
    def of(cls, model: Path, cache: Path, model_fingerprint: str) -> "ModelFiles":
        """Those that were baked into the model directory, else those under `cache`, there already or not."""
        kept = cache / f"{model_fingerprint}-{_folder_name()}"
        baked = cls.baked(model, kept)
        return baked if baked.exported else cls(kept, kept)

    @classmethod
    def baked(cls, model: Path, compiled: Path) -> "ModelFiles":
        """Where baking puts the graphs."""
        return cls(model / _folder_name(), compiled)

    @property
    def exported(self) -> bool:
        return all((self.graphs / name).is_file() for name in (_IMAGES, _TEXTS))

    def export(self, towers: "Towers", size_px: int) -> None:
        """Write both towers. Another process that does the same at the same time does no harm."""
        import torch

        logger.info("exporting the model for OpenVINO, once", extra={"folder": str(self.graphs)})
        self.graphs.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.graphs.parent) as scratch:
            pixels = torch.zeros((2, 3, size_px, size_px), dtype=torch.uint8)
            _export(towers.images, pixels, [-1, 3, size_px, size_px], Path(scratch) / _IMAGES)
            _export(towers.texts, torch.zeros((2, 16), dtype=torch.long), [-1, -1], Path(scratch) / _TEXTS)
            self._publish(Path(scratch))

    def _publish(self, scratch: Path) -> None:
        """Move the finished files into place, weights before the graphs that name them."""
        self.graphs.mkdir(exist_ok=True)
        for path in sorted(scratch.iterdir(), key=lambda file: file.suffix == ".xml"):
            os.replace(path, self.graphs / path.name)


def _folder_name() -> str:
    version = openvino.get_version().partition("-")[0]
    return f"openvino-{version}-{_EXPORT_VERSION}"


class OpenVinoEngine:
    """Runs the exported towers on `threads` threads of this CPU."""

    name = "openvino"
    device = "cpu"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self, files: ModelFiles, *, dtype: str, threads: int) -> None:
        self.dtype = dtype
        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": threads,
            # One stream: the batcher sends one batch at a time, and it gets all the threads.
            "NUM_STREAMS": 1,
            "CACHE_DIR": str(files.compiled),
        }
        self._images = core.compile_model(files.graphs / _IMAGES, "CPU", options).create_infer_request()
        self._texts = core.compile_model(files.graphs / _TEXTS, "CPU", options).create_infer_request()

    def prepare_thread(self) -> None:
        """Nothing: its threads are its own."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """See `Engine.encode_images`."""
        return _run(self._images.infer, pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`."""
        return _run(self._texts.infer, token_ids)


def _run(infer: Callable[..., Any], batch: Pixels | TokenIds) -> Vectors:
    # A copy: the output's memory belongs to the request and is written again by the next batch.
    return np.array(infer([batch])[0], dtype=np.float32)


def _export(tower: Any, example: Any, shape: list[int], path: Path) -> None:  # noqa: ANN401 - torch modules
    with warnings.catch_warnings():
        # Of tracing, which the converter does and torch advises against: the result is checked by the parity tests.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(tower, example_input=example, input=[shape])
    openvino.save_model(model, path, compress_to_fp16=False)
