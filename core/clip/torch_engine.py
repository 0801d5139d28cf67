"""CLIP through torch and transformers: float16 on CUDA; bfloat16 or float32 on a CPU, by its flags."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import CLIPModel

from core.clip.artifact import ModelDirectory
from core.clip.cuda_graphs import GraphedTower, batch_sizes_up_to
from core.clip.engine import EngineBroken, Pixels, TokenIds, Vectors
from core.clip.towers import ImageTower, TextTower

# Texts of up to this many tokens (with padding) get graphs; longer ones are rare and run eagerly.
_GRAPHED_TOKENS = (8, 16, 24, 32)

Tower = Callable[[npt.NDArray[Any]], torch.Tensor]


class TorchEngine:
    """One replica of the model on one device. `clip` is moved there and converted to the engine's dtype."""

    name = "torch"

    def __init__(
        self, clip: CLIPModel, directory: ModelDirectory, *, device: str, dtype: str, max_batch: int = 1
    ) -> None:
        self.device = device
        self.dtype = dtype
        torch.nn.Module.to(clip, device=torch.device(device), dtype=getattr(torch, dtype)).train(False)
        images, texts = ImageTower(clip, directory).to(device), TextTower(clip)
        self._images: Tower = _eager(images)
        self._texts: Tower = _eager(texts)
        if torch.device(device).type == "cuda":
            self._images, self._texts = _graphed(images, texts, directory.size_px, device, max_batch)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """See `Engine.encode_images`. Raises `EngineBroken` when the device is lost."""
        return _run(self._images, pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`. Raises `EngineBroken` when the device is lost."""
        return _run(self._texts, token_ids)


def _run(tower: Tower, batch: Pixels | TokenIds) -> Vectors:
    # Entered here and not around the thread: inference mode belongs to the thread that calls.
    with torch.inference_mode(), _device_errors():
        rows: Vectors = tower(batch).float().cpu().numpy()
    return np.ascontiguousarray(rows)


def _eager(tower: torch.nn.Module) -> Tower:
    return lambda batch: cast("torch.Tensor", tower(torch.from_numpy(batch)))


def _graphed(
    images: torch.nn.Module, texts: torch.nn.Module, size_px: int, device: str, max_batch: int
) -> tuple[Tower, Tower]:
    sizes = batch_sizes_up_to(max_batch)
    graphed_images, graphed_texts = GraphedTower(images, device), GraphedTower(texts, device)
    with torch.inference_mode(), torch.cuda.device(device):
        graphed_images.capture(np.zeros((3, size_px, size_px), dtype=np.uint8), sizes)
        for tokens in _GRAPHED_TOKENS:
            graphed_texts.capture(np.zeros(tokens, dtype=np.int64), sizes)
    return graphed_images, graphed_texts


@contextmanager
def _device_errors() -> Iterator[None]:
    """Turn the loss of the device into `EngineBroken`; out of memory is another class and stays as it is."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise EngineBroken("the accelerator reported an error that this process cannot recover from") from error
