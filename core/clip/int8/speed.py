"""Whether int8 is faster than the other numeric type on this very machine: measured once, and remembered.

Which is faster depends on the processor's instructions, and not on their presence alone. Never imports torch.
"""

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.clip.engine import Pixels
from core.clip.graph_files import IMAGES, INT8, GraphFiles
from core.clip.openvino_engine import OpenVinoEngine
from core.clip.silent_openvino import openvino
from core.process import cpu

# Less is within what the measurement itself moves by.
_LEAST_GAIN = 1.1

_BATCH = 8
_ROUNDS = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times as fast as in another dtype images are in int8, as a file that is there once it was measured."""

    path: Path

    @classmethod
    def record(cls, files: GraphFiles, other: str, *, threads: int) -> "Gain":
        """Of these graphs, this processor and so many threads."""
        graph = (files.int8 / IMAGES).stat()
        what = (cpu.processor(), threads, other, graph.st_size, graph.st_mtime_ns)
        return cls(files.compiled / f"int8-gain-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.json")

    def recall(self) -> float | None:
        """Return what was remembered, if it can be read."""
        try:
            return float(json.loads(self.path.read_bytes())["gain"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, gain: float) -> None:
        """Keep it for the next start, if that is possible."""
        try:
            self.path.write_text(json.dumps({"gain": gain}))
        except OSError as error:
            logger.info("the gain of int8 was not kept", extra={"cause": error.strerror})


def is_faster_here(files: GraphFiles, other: str, *, threads: int) -> bool:
    """Compare batches of images in int8 and in the dtype `other`, unless this machine has done so before."""
    record = Gain.record(files, other, threads=threads)
    gain = record.recall()
    if gain is None:
        gain = measure_gain(files, other, threads=threads)
        record.remember(gain)
    faster = gain >= _LEAST_GAIN
    logger.info("int8 was baked", extra={"gain": round(gain, 2), "instead_of": other, "taken": faster})
    return faster


def measure_gain(files: GraphFiles, other: str, *, threads: int) -> float:
    """Return that figure for this machine. Takes a few seconds."""
    engines = [OpenVinoEngine(files, dtype=dtype, threads=threads) for dtype in (other, INT8)]
    # Of the size that the graph asks for; what is in the pictures makes no difference.
    side = int(openvino.Core().read_model(files.graphs / IMAGES).input(0).partial_shape[2].get_length())
    pixels = np.zeros((_BATCH, 3, side, side), np.uint8)
    rounds = [[_seconds(engine, pixels) for engine in engines] for _ in range(_ROUNDS)]
    slow, fast = (min(times) for times in zip(*rounds, strict=True))
    return float(slow / fast)


def _seconds(engine: OpenVinoEngine, pixels: Pixels) -> float:
    started_s = time.perf_counter()
    engine.encode_images(pixels)
    return time.perf_counter() - started_s
