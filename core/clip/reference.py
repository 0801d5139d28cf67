"""transformers' own CLIP: what our towers are compared with, when a model is baked and in tests. Never served."""

from collections.abc import Callable
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import CLIPModel
from transformers.utils.logging import disable_progress_bar

from core.clip.artifact import ModelDirectory
from core.errors import StartError


def load_reference(directory: ModelDirectory) -> CLIPModel:
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
    model.train(False)
    return model
