"""CLIP through OpenVINO on a CPU, in float32, bfloat16 or int8, compiled once and kept on disk. No torch."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.clip.engine import Pixels, TokenIds, Vectors
from core.clip.graph_files import IMAGES, INT8, INT8_GROUP_SIZE, TEXTS, GraphFiles, own_cache
from core.clip.silent_openvino import openvino
from core.process import cpu

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoEngine:
    """Runs the exported towers on `threads` threads of this CPU.

    In int8 a tower that was not baked in int8 runs in the processor's own numeric type.
    """

    name = "openvino"
    device = "cpu"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self, files: GraphFiles, *, dtype: str, threads: int) -> None:
        self.dtype = dtype
        core = openvino.Core()
        # One stream: the batcher sends one batch at a time, and it gets all the threads.
        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}

        def compiled(name: str, cache: Path | None) -> Any:  # noqa: ANN401 - openvino is untyped
            path, numbers = _graph(files, name, dtype)
            kept = {} if cache is None else {"CACHE_DIR": str(cache)}
            given = {**options, **numbers, **kept}
            return core.compile_model(path, "CPU", given).create_infer_request()

        # Side by side: OpenVINO compiles a graph, or reads a compiled one, on one core.
        with own_cache(files.compiled) as cache, ThreadPoolExecutor(2) as compiling:
            self._images, self._texts = compiling.map(partial(compiled, cache=cache), (IMAGES, TEXTS))

    def prepare_thread(self) -> None:
        """Nothing: its threads are its own."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """See `Engine.encode_images`."""
        return _run(self._images.infer, pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`."""
        return _run(self._texts.infer, token_ids)


def _graph(files: GraphFiles, name: str, dtype: str) -> tuple[Path, Mapping[str, Any]]:
    """The graph of a tower, and how OpenVINO is to compute it."""
    if dtype != INT8:
        return files.graphs / name, {"INFERENCE_PRECISION_HINT": _PRECISIONS[dtype]}
    path = files.in_int8(name)
    if path is None:
        return files.graphs / name, {"INFERENCE_PRECISION_HINT": _PRECISIONS[cpu.fastest_float()]}
    # What is between its layers stays exact: it takes little time.
    return path, {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": INT8_GROUP_SIZE}


def _run(infer: Callable[..., Any], batch: Pixels | TokenIds) -> Vectors:
    # A copy: the output's memory belongs to the request and is written again by the next batch.
    return np.array(infer([batch])[0], dtype=np.float32)
