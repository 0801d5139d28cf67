"""The numbers of a model directory, as they are on disk."""

import pickle
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.clip.artifact import ModelDirectory
from core.errors import StartError

# Old checkpoints store these constants beside the weights; they decide nothing.
_NOT_WEIGHTS = ".position_ids"


Weights = Mapping[str, torch.Tensor]


def read_weights(directory: ModelDirectory) -> Weights:
    """Return the tensors by their names. Raises `StartError` for an unreadable file."""
    path = directory.weights_path
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise StartError(f"CLIP_MODEL: the weights in {path} cannot be read: {error}") from error
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_NOT_WEIGHTS)}
