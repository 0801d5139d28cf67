"""Weights in a `pytorch_model.bin`, which only torch can read. Imported where there is one."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from core.clip.tensors import Tensor

UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError)


def read(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors on the CPU, mapped where the file allows it. Raises one of `UNREADABLE`."""
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError("it is not a mapping of names to tensors")
    return tensors


def as_stored(tensor: torch.Tensor) -> Tensor:
    """The same memory as numpy sees it."""
    values = tensor.detach()
    if values.dtype == torch.bfloat16:
        return Tensor(values.view(torch.uint16).numpy(), is_bfloat16=True)
    return Tensor(values.numpy())
