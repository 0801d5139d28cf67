"""CLIP through torch and transformers: float16 on CUDA; bfloat16 or float32 on a CPU, by its flags."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import CLIPModel
from transformers.utils.logging import disable_progress_bar

from core import cpu
from core.clip.artifact import ModelDirectory
from core.clip.engine import EngineBroken, Pixels, TokenIds, Vectors
from core.errors import StartError

_PIXEL_MAX = 255.0


class TorchEngine:
    """One replica of the model on one device. `model` is moved there and converted to the engine's dtype."""

    name = "torch"

    def __init__(self, model: CLIPModel, directory: ModelDirectory, *, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = dtype
        self._dtype = getattr(torch, dtype)
        self._model = model
        torch.nn.Module.to(model, device=torch.device(device), dtype=self._dtype).train(False)
        mean = torch.tensor(directory.mean, device=device).view(3, 1, 1)
        std = torch.tensor(directory.std, device=device).view(3, 1, 1)
        # (value / 255 - mean) / std as one multiplication and one addition.
        self._scale = 1.0 / (_PIXEL_MAX * std)
        self._shift = -mean / std

    def encode_images(self, pixels: Pixels) -> Vectors:
        """See `Engine.encode_images`. Raises `EngineBroken` when the device is lost."""
        with torch.inference_mode(), _device_errors():
            on_device = torch.from_numpy(pixels).to(self.device, non_blocking=True)
            normalised = (on_device.float() * self._scale + self._shift).to(self._dtype)
            return _to_numpy(self._model.get_image_features(pixel_values=normalised).pooler_output)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`. Raises `EngineBroken` when the device is lost."""
        with torch.inference_mode(), _device_errors():
            on_device = torch.from_numpy(token_ids).to(self.device, non_blocking=True)
            # No attention mask: it would disable the fused causal path, and causality already hides the padding.
            return _to_numpy(self._model.get_text_features(input_ids=on_device).pooler_output)


def load_clip(directory: ModelDirectory) -> CLIPModel:
    """Read the model in float32 on the CPU. Raises `StartError` if the files do not hold a whole CLIP."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    # With output_loading_info it returns a pair, which its annotation does not know.
    from_pretrained = cast("Callable[..., tuple[CLIPModel, dict[str, Any]]]", CLIPModel.from_pretrained)
    try:
        model, info = from_pretrained(
            directory.path, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StartError(f"CLIP_MODEL: the weights in {directory.path} cannot be read: {error}") from error
    if info["missing_keys"]:
        # transformers would fill them with random numbers and only warn.
        missing = sorted(info["missing_keys"])[0]
        raise StartError(f"CLIP_MODEL: the weights in {directory.path} are incomplete: no {missing}")
    return model


def choose_devices(setting: str) -> list[str]:
    """Turn CLIP_DEVICE into device names: `auto` is every CUDA device, else the CPU. Raises `StartError`."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and count == 0):
        return ["cpu"]
    if setting in ("auto", "cuda"):
        wanted = ["cuda" if count == 1 else f"cuda:{index}" for index in range(count)]
    else:
        wanted = [setting]
    if not wanted or not set(wanted) <= {"cuda", *(f"cuda:{index}" for index in range(count))}:
        raise StartError(f"CLIP_DEVICE: {setting} is not here: expected auto, cpu, or one of {count} CUDA devices")
    return wanted


def choose_dtype(setting: str, device: str) -> str:
    """Turn CLIP_DTYPE into a dtype name for `device`. Raises `StartError` for float16 on a CPU."""
    if setting == "float16" and device == "cpu":
        raise StartError("CLIP_DTYPE: float16 is for CUDA; on a CPU use auto, float32 or bfloat16")
    if setting != "auto":
        return setting
    if device != "cpu":
        return "float16"
    return "bfloat16" if cpu.has_bfloat16() else "float32"


@contextmanager
def _device_errors() -> Iterator[None]:
    """Turn the loss of the device into `EngineBroken`; out of memory is another class and stays as it is."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise EngineBroken("the accelerator reported an error that this process cannot recover from") from error


def _to_numpy(vectors: torch.Tensor) -> Vectors:
    rows: Vectors = vectors.float().cpu().numpy()
    return np.ascontiguousarray(rows)
