"""CLIP through torch and transformers: float16 on CUDA; bfloat16 or float32 on a CPU, by its flags."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import CLIPModel

from core.clip.artifact import ModelDirectory
from core.clip.engine import EngineBroken, Pixels, TokenIds, Vectors
from core.clip.towers import ImageTower, TextTower


class TorchEngine:
    """One replica of the model on one device. `clip` is moved there and converted to the engine's dtype."""

    name = "torch"

    def __init__(self, clip: CLIPModel, directory: ModelDirectory, *, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = dtype
        torch.nn.Module.to(clip, device=torch.device(device), dtype=getattr(torch, dtype)).train(False)
        self._images = ImageTower(clip, directory).to(device)
        self._texts = TextTower(clip)

    def encode_images(self, pixels: Pixels) -> Vectors:
        """See `Engine.encode_images`. Raises `EngineBroken` when the device is lost."""
        return self._run(self._images, pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`. Raises `EngineBroken` when the device is lost."""
        return self._run(self._texts, token_ids)

    def _run(self, tower: torch.nn.Module, batch: Pixels | TokenIds) -> Vectors:
        # Entered here and not around the thread: inference mode belongs to the thread that calls.
        with torch.inference_mode(), _device_errors():
            vectors = tower(torch.from_numpy(batch).to(self.device, non_blocking=True))
            rows: Vectors = vectors.float().cpu().numpy()
        return np.ascontiguousarray(rows)


@contextmanager
def _device_errors() -> Iterator[None]:
    """Turn the loss of the device into `EngineBroken`; out of memory is another class and stays as it is."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise EngineBroken("the accelerator reported an error that this process cannot recover from") from error
