"""CLIP through OpenVINO on a CPU: bfloat16 where the processor has it, compiled once and kept on disk. No torch."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openvino  # type: ignore[import-untyped]

from core.clip.engine import Pixels, TokenIds, Vectors
from core.clip.graph_files import IMAGES, TEXTS, GraphFiles

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoEngine:
    """Runs the exported towers on `threads` threads of this CPU."""

    name = "openvino"
    device = "cpu"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self, files: GraphFiles, *, dtype: str, threads: int) -> None:
        self.dtype = dtype
        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": threads,
            # One stream: the batcher sends one batch at a time, and it gets all the threads.
            "NUM_STREAMS": 1,
            "CACHE_DIR": str(files.compiled),
        }

        def compiled(name: str) -> Any:  # noqa: ANN401 - openvino is untyped
            return core.compile_model(files.graphs / name, "CPU", options).create_infer_request()

        # Side by side: OpenVINO compiles a graph, or reads a compiled one, on one core.
        with ThreadPoolExecutor(2) as compiling:
            self._images, self._texts = compiling.map(compiled, (IMAGES, TEXTS))

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
