"""The numbers of a model directory: read once for the fingerprint, and as a whole transformers CLIP."""

import pickle
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.clip.artifact import ModelDirectory
from core.errors import StartError

if TYPE_CHECKING:
    from transformers import CLIPModel

# Old checkpoints store these constants beside the weights; they decide nothing.
_NOT_WEIGHTS = ".position_ids"


def read_weights(directory: ModelDirectory) -> Mapping[str, torch.Tensor]:
    """Return the tensors as they are on disk, without transformers. Raises `StartError` for an unreadable file."""
    path = directory.weights_path
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise StartError(f"CLIP_MODEL: the weights in {path} cannot be read: {error}") from error
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_NOT_WEIGHTS)}


def load_clip(directory: ModelDirectory) -> "CLIPModel":
    """Read the model in float32 on the CPU. Raises `StartError` if the files do not hold a whole CLIP."""
    from transformers import CLIPModel  # 2.6 s: an engine with a compiled model on disk does without
    from transformers.utils.logging import disable_progress_bar

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
