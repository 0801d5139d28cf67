"""CUDA graphs for the towers: one captured forward pass per batch size, replayed instead of launched kernel by kernel.

A ViT-B/32 forward of few images is bound by launching its kernels, not by the arithmetic. Batches are padded to the
next captured size; what no graph fits runs eagerly.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# Powers of two waste less than half of a batch, and the batcher's maximum is one of them.
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# PyTorch asks for a few eager passes before a capture, on its stream: libraries choose their kernels in them.
_EAGER_PASSES = 3


def batch_sizes_up_to(max_batch: int) -> tuple[int, ...]:
    """Return the sizes to capture so that any batch of at most `max_batch` finds one."""
    return (*(size for size in _BATCH_SIZES if size < max_batch), max_batch)


def next_size(sizes: Sequence[int], count: int) -> int | None:
    """Return the smallest of the ascending `sizes` that holds `count`, or None."""
    position = bisect_left(sizes, count)
    return sizes[position] if position < len(sizes) else None


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    pinned: torch.Tensor
    batch: torch.Tensor
    vectors: torch.Tensor


class GraphedTower:
    """A tower on one CUDA device. Call `capture` for every shape that is worth a graph, then the tower itself.

    Both with `stream` current: graphs that share memory must be of one stream, and PyTorch's own stream for captures
    belongs to whichever device came first.
    """

    def __init__(self, tower: torch.nn.Module, stream: torch.cuda.Stream) -> None:
        self._tower = tower
        self._stream = stream
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._sizes: dict[tuple[int, ...], list[int]] = {}
        self._pool: Any = None

    def capture(self, example: npt.NDArray[Any], sizes: Sequence[int]) -> None:
        """Capture a graph per batch size; `example` is one row of the input. Raises `RuntimeError` from CUDA."""
        for size in sorted(sizes, reverse=True):  # the largest first: the others then fit into its memory
            self._capture_one(torch.from_numpy(np.stack([example] * size)))
        self._sizes[example.shape] = sorted(sizes)

    def __call__(self, batch: npt.NDArray[Any]) -> torch.Tensor:
        """Return the vectors of `batch`, (n, dim), on the device. They are overwritten by the next call."""
        captured = self._find(batch)
        if captured is None:
            eager: torch.Tensor = self._tower(torch.from_numpy(batch).to(self._stream.device))
            return eager
        count = len(batch)
        # Rows behind `count` still hold an earlier batch: they are computed and never read.
        captured.pinned[:count].copy_(torch.from_numpy(batch))
        captured.batch.copy_(captured.pinned, non_blocking=True)
        captured.graph.replay()
        return captured.vectors[:count]

    def _find(self, batch: npt.NDArray[Any]) -> _Captured | None:
        size = next_size(self._sizes.get(batch.shape[1:], []), len(batch))
        return None if size is None else self._captured[(size, *batch.shape[1:])]

    def _capture_one(self, example: torch.Tensor) -> None:
        batch = example.to(self._stream.device)
        for _ in range(_EAGER_PASSES):
            self._tower(batch)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            vectors = self._tower(batch)
        self._pool = graph.pool()
        self._captured[tuple(batch.shape)] = _Captured(graph, example.pin_memory(), batch, vectors)
