"""The two towers as torch modules with the engine's inputs and outputs, normalisation included."""

import torch
from torch import nn
from transformers import CLIPModel

from core.clip.artifact import ModelDirectory

_PIXEL_MAX = 255.0


class ImageTower(nn.Module):
    """uint8 (n, 3, size, size) to (n, dim). The pixels are normalised in float32, whatever the model's dtype is."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, clip: CLIPModel, directory: ModelDirectory) -> None:
        super().__init__()
        self.clip = clip
        mean = torch.tensor(directory.mean).view(3, 1, 1)
        std = torch.tensor(directory.std).view(3, 1, 1)
        # (value / 255 - mean) / std as one multiplication and one addition.
        self.register_buffer("scale", 1.0 / (_PIXEL_MAX * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        normalised = (pixels.float() * self.scale + self.shift).to(self.clip.dtype)
        vectors: torch.Tensor = self.clip.get_image_features(pixel_values=normalised).pooler_output
        return vectors


class TextTower(nn.Module):
    """int64 (n, tokens) to (n, dim)."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        # No attention mask: it would disable the fused causal path, and causality already hides the padding.
        vectors: torch.Tensor = self.clip.get_text_features(input_ids=token_ids).pooler_output
        return vectors
