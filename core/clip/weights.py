"""The numbers of a model directory, as they are on disk. Only a pickle needs torch."""

import mmap
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from core.clip.artifact import ModelDirectory
from core.clip.tensors import Tensor
from core.errors import StartError

# They decide no vector: constants that old checkpoints store, and the factor of similarities, which nobody serves. Any
# other tensor counts, though no tower may read it: to call two models the same takes knowledge.
_POSITION_IDS = ".position_ids"
_LOGIT_SCALE = "logit_scale"

# A bfloat16 is the upper half of a float32; numpy has no such type.
_BFLOAT16 = "BF16"
_TYPES: Mapping[str, npt.DTypeLike] = {
    _BFLOAT16: "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8",
    "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "<u1", "BOOL": "?",
}  # fmt: skip


Weights = Mapping[str, Tensor]


def read_weights(directory: ModelDirectory) -> Weights:
    """Return the tensors by their names. Raises `StartError` for an unreadable file."""
    path = directory.weights_path
    tensors = _map_safetensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    return {name: tensor for name, tensor in tensors.items() if is_weight(name)}


def is_weight(name: str) -> bool:
    """Whether a tensor of a checkpoint has a say in the vectors."""
    return name != _LOGIT_SCALE and not name.endswith(_POSITION_IDS)


def _map_safetensors(path: Path) -> Mapping[str, Tensor]:
    """Nothing is read yet: pages of the file come when a tensor is looked at, and belong to the kernel's cache."""
    try:
        # Copy on write, for torch, which wants to own what it is given; the file itself can never change.
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        with safe_open(path, framework="numpy") as header:
            slices = {name: header.get_slice(name) for name in header.offset_keys()}
            described = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        return dict(_views(data, described))
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _views(data: mmap.mmap, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors lie behind each other, in the order of `described`, up to the end of the file.

    `safe_open` has refused any other layout. Raises `ValueError` for a type that numpy has not, such as 8-bit floats.
    """
    unknown = {kind for kind, _ in described.values()} - _TYPES.keys()
    if unknown:
        raise ValueError(f"tensors of type {sorted(unknown)[0]}")
    sizes = {name: prod(shape) * np.dtype(_TYPES[kind]).itemsize for name, (kind, shape) in described.items()}
    start = len(data) - sum(sizes.values())
    for name, (kind, shape) in described.items():
        stored = np.frombuffer(data, _TYPES[kind], count=prod(shape), offset=start).reshape(shape)
        yield name, Tensor(stored, is_bfloat16=kind == _BFLOAT16)
        start += sizes[name]


def _unpickle(path: Path) -> Mapping[str, Tensor]:
    from core.clip import pickled  # imports torch

    try:
        return {name: pickled.as_stored(tensor) for name, tensor in pickled.read(path).items()}
    except pickled.UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StartError:
    return StartError(f"CLIP_MODEL: the weights in {path} cannot be read: {error}")
