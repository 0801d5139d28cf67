"""CLIP through torch: float16 on CUDA; bfloat16 or float32 on a CPU, by its flags."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from core.clip.cuda_graphs import GraphedTower, batch_sizes_up_to, next_size
from core.clip.engine import EngineBroken, Pixels, TokenIds, Vectors
from core.clip.towers import Towers
from core.process import cpu

# Texts of up to this many tokens (with padding) get graphs; longer ones are rare and run eagerly.
_GRAPHED_TOKENS = (8, 16, 24, 32)

Tower = Callable[[npt.NDArray[Any]], torch.Tensor]


class TorchEngine:
    """Runs `towers`, which are on `device` in `dtype` already. Several engines may share them."""

    name = "torch"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError, torch.OutOfMemoryError)

    def __init__(self, towers: Towers, *, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = dtype
        self._images: Tower = _eager(towers.images)
        self._texts: Tower = _eager(towers.texts)

    def prepare_thread(self) -> None:
        """All cores: where threads that resize use torch too, each has told it to keep to one."""
        torch.set_num_threads(cpu.available_cores())

    def encode_images(self, pixels: Pixels) -> Vectors:
        """See `Engine.encode_images`. Raises `EngineBroken` when the device is lost."""
        return self._run(self._images, pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`. Raises `EngineBroken` when the device is lost."""
        return self._run(self._texts, token_ids)

    def _run(self, tower: Tower, batch: Pixels | TokenIds) -> Vectors:
        # Entered here and not around the thread: inference mode belongs to the thread that calls.
        with torch.inference_mode(), _device_errors():
            rows: Vectors = tower(batch).float().cpu().numpy()
        return np.ascontiguousarray(rows)


class CudaEngine(TorchEngine):
    """A `TorchEngine` with CUDA graphs and a stream of its own: beside another one, copies and work overlap."""

    def __init__(self, towers: Towers, *, device: str, dtype: str, size_px: int, max_batch: int) -> None:
        super().__init__(towers, device=device, dtype=dtype)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        sizes = batch_sizes_up_to(max_batch)
        images, texts = GraphedTower(towers.images, self._stream), GraphedTower(towers.texts, self._stream)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            images.capture(np.zeros((3, size_px, size_px), dtype=np.uint8), sizes)
            for tokens in _GRAPHED_TOKENS:
                texts.capture(np.zeros(tokens, dtype=np.int64), sizes)
        self._images = images
        self._texts = lambda token_ids: texts(widened(token_ids))

    def _run(self, tower: Tower, batch: Pixels | TokenIds) -> Vectors:
        with torch.cuda.stream(self._stream):
            return super()._run(tower, batch)


def widened(token_ids: TokenIds) -> TokenIds:
    """Pad to the next width that has graphs, with what each row ends with: the end token. Longer ones stay."""
    width = next_size(_GRAPHED_TOKENS, token_ids.shape[1])
    return token_ids if width is None else np.pad(token_ids, ((0, 0), (0, width - token_ids.shape[1])), mode="edge")


def _eager(tower: torch.nn.Module) -> Tower:
    return lambda batch: cast("torch.Tensor", tower(torch.from_numpy(batch)))


@contextmanager
def _device_errors() -> Iterator[None]:
    """Turn the loss of the device into `EngineBroken`; out of memory is another class and stays as it is."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise EngineBroken("the accelerator reported an error that this process cannot recover from") from error
