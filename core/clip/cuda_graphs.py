"""CUDA graphs for the towers: one captured forward pass per shape, replayed instead of launched kernel by kernel.

A ViT-B/32 forward of few images is bound by launching its kernels, not by the arithmetic. Batches are padded to the
next captured size; what no graph fits runs eagerly. What is computed here without a device are plain functions.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from core.clip.engine import TokenIds

# Powers of two waste less than half of a batch, and the batcher's maximum is one of them.
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# Those of the tokenizer, but 12: search texts of up to 12 tokens share the graphs for 16.
_TOKEN_WIDTHS = (8, 16, 24, 32, 48, 77)

# PyTorch asks for a few eager passes before a capture, on its stream: libraries choose their kernels in them.
_EAGER_PASSES = 3


@dataclass(frozen=True, slots=True)
class Captures:
    """Which shapes the graphs of an engine are for.

    Engines share one: whoever captures holds `turn`, because only one capture may be under way in a process.
    """

    size_px: int
    context_length: int
    max_batch: int
    turn: threading.Lock = field(default_factory=threading.Lock)


def batch_sizes_up_to(max_batch: int) -> tuple[int, ...]:
    """Return the sizes to capture so that any batch of at most `max_batch` finds one."""
    return (*(size for size in _BATCH_SIZES if size < max_batch), max_batch)


def token_widths_up_to(context_length: int) -> tuple[int, ...]:
    """Return the widths to capture so that any text that the model takes finds one."""
    return (*(width for width in _TOKEN_WIDTHS if width < context_length), context_length)


def next_size(sizes: Sequence[int], count: int) -> int | None:
    """Return the smallest of the ascending `sizes` that holds `count`, or None."""
    position = bisect_left(sizes, count)
    return sizes[position] if position < len(sizes) else None


def widened(token_ids: TokenIds, widths: Sequence[int]) -> TokenIds:
    """Pad to the next of `widths` with what each row ends with: the end token. What fits none stays as it is."""
    width = next_size(widths, token_ids.shape[1])
    return token_ids if width is None else np.pad(token_ids, ((0, 0), (0, width - token_ids.shape[1])), mode="edge")


def page_locked(shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[torch.Tensor, npt.NDArray[Any]]:
    """Return memory that the device copies to and from by itself, as a tensor and as the array of the same bytes."""
    tensor = torch.empty(tuple(shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)
    return tensor, tensor.numpy()


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph from `batch` to `vectors`, both on the device. `host` and `pinned` are the same bytes."""

    graph: torch.cuda.CUDAGraph
    host: npt.NDArray[Any]
    pinned: torch.Tensor
    batch: torch.Tensor
    vectors: torch.Tensor


class GraphedTower:
    """A tower on one CUDA device. Call `capture` for every shape that is worth a graph, then the tower itself.

    All of it with `stream` current and from one thread. Graphs that share memory must be of one stream, and PyTorch's
    own stream for captures belongs to whichever device came first. A graph is never given up while its engine lives:
    memory that one of them frees would be handed to kernels that are still running.
    """

    def __init__(self, tower: Callable[[torch.Tensor], torch.Tensor], stream: torch.cuda.Stream) -> None:
        self._tower = tower
        self._stream = stream
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._sizes: dict[tuple[int, ...], list[int]] = {}
        self._pool: Any = None

    def capture(self, row: Sequence[int], dtype: np.dtype[Any], sizes: Sequence[int]) -> None:
        """Capture a graph per batch size, for rows of this shape. Raises what CUDA raises."""
        for size in sorted(sizes, reverse=True):  # the largest first: the others then fit into its memory
            self._capture_one((size, *row), dtype)
        self._sizes[tuple(row)] = sorted(sizes)

    def __call__(self, batch: npt.NDArray[Any]) -> torch.Tensor:
        """Return the vectors of `batch`, (n, dim), on the device. They are overwritten by the next call.

        Enqueued, not waited for. Raises what CUDA raises.
        """
        captured = self._find(batch)
        if captured is None:
            pinned, host = page_locked(batch.shape, batch.dtype)
            np.copyto(host, batch)
            return self._tower(pinned.to(self._stream.device, non_blocking=True))
        count = len(batch)
        # By numpy: torch's own copy would wake its threads for it, beside the decoders.
        np.copyto(captured.host[:count], batch)
        # Rows behind `count` still hold an earlier batch: they are computed and never read.
        captured.batch[:count].copy_(captured.pinned[:count], non_blocking=True)
        captured.graph.replay()
        return captured.vectors[:count]

    def _find(self, batch: npt.NDArray[Any]) -> _Captured | None:
        size = next_size(self._sizes.get(batch.shape[1:], []), len(batch))
        return None if size is None else self._captured[(size, *batch.shape[1:])]

    def _capture_one(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        pinned, host = page_locked(shape, dtype)
        host.fill(0)
        batch = pinned.to(self._stream.device)
        for _ in range(_EAGER_PASSES):
            self._tower(batch)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: what another one does, such as allocating, is no part of this capture and no fault.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            vectors = self._tower(batch)
        self._pool = graph.pool()
        self._captured[shape] = _Captured(graph, host, pinned, batch, vectors)
