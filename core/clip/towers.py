"""CLIP's two towers as torch modules over a model directory's tensors, with the engine's inputs and outputs.

The arithmetic is that of transformers' CLIPModel, which every parity test and every bake compares with; what is
arranged anew gives the same numbers for less work (docs/decisions/0017-own-towers.md). Knows no file and no device.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from core.clip.architecture import Activation, Text, Vision
from core.clip.artifact import ModelDirectory
from core.clip.weights import Weights
from core.errors import StartError

# Subtracted from the pixels first, so that they are small whole numbers around zero: exact in every numeric type.
_MIDDLE_GREY = 128.0
_PIXEL_MAX = 255.0

# QuickGELU, x * sigmoid(1.702 x), is silu(1.702 x) / 1.702: with the factors moved into the layers around it, one
# kernel instead of three.
_ACTIVATIONS: Mapping[Activation, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "quick_gelu": (functional.silu, 1.702),
    "gelu": (functional.gelu, 1.0),
}


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a checkpoint, from `source`, whose names begin with `prefix`; as float32."""

    by_name: Weights
    source: Path
    prefix: str = ""

    def under(self, part: str) -> "Tensors":
        """Those of one part, such as `vision_model`."""
        return replace(self, prefix=f"{self.prefix}{part}.")

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Return a tensor. Raises `StartError` when it is not there or has another shape."""
        tensor = self.by_name.get(self.prefix + name)
        if tensor is None:
            raise StartError(f"CLIP_MODEL: the weights in {self.source} are incomplete: no {self.prefix}{name}")
        if tensor.shape != shape:
            found = f"{self.prefix}{name} of shape {tensor.shape}"
            raise StartError(f"CLIP_MODEL: {self.source} has {found}, and its config.json says {shape}")
        return torch.from_numpy(tensor.float32())


@dataclass(frozen=True, slots=True)
class Towers:
    """Both towers of a model."""

    images: "ImageTower"
    texts: "TextTower"

    @classmethod
    def of(cls, directory: ModelDirectory, weights: Weights) -> "Towers":
        """Build them in float32 on the CPU. Raises `StartError` unless `weights` are those of the configuration."""
        tensors = Tensors(weights, directory.weights_path)
        return cls(ImageTower(tensors, directory), TextTower(tensors, directory))

    def on(self, device: str, dtype: str) -> "Towers":
        """Return a copy on a device, in a numeric type such as `float16`."""
        copied = copy.deepcopy(self)
        for tower in (copied.images, copied.texts):
            nn.Module.to(tower, device=torch.device(device), dtype=getattr(torch, dtype))
        return copied


class ImageTower(nn.Module):
    """uint8 (n, 3, size, size) RGB to (n, dim), not normalised."""

    def __init__(self, tensors: Tensors, directory: ModelDirectory) -> None:
        super().__init__()
        vision, part = directory.architecture.vision_config, tensors.under("vision_model")
        width, patch = vision.hidden_size, vision.patch_size
        patches = (vision.image_size // patch) ** 2
        kernel = part.take("embeddings.patch_embedding.weight", width, 3, patch, patch)
        positions = part.take("embeddings.position_embedding.weight", patches + 1, width)
        self.patch = patch
        self.embed = _embedding_of_pixels(kernel, torch.tensor(directory.mean), torch.tensor(directory.std))
        self.first = _constant(part.take("embeddings.class_embedding", width) + positions[0])
        self.positions = _constant(positions[1:])
        self.norm_before = _norm(part.under("pre_layrnorm"), vision)  # the checkpoint's own spelling
        self.blocks, self.pooling = _blocks(part, vision, causal=False)
        self.norm_after = _norm(part.under("post_layernorm"), vision)
        self.project = _linear(tensors.take("visual_projection.weight", directory.dim, width))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.embed(_split(pixels, self.patch).to(self.first.dtype) - _MIDDLE_GREY) + self.positions
        first = self.first.expand(patches.shape[0], 1, -1)
        tokens = self.blocks(self.norm_before(torch.cat([first, patches], dim=1)))
        pooled = self.pooling(tokens, tokens[:, :1])
        vectors: torch.Tensor = self.project(self.norm_after(pooled[:, 0]))
        return vectors


class TextTower(nn.Module):
    """int64 (n, tokens), padded with the end token, to (n, dim), not normalised."""

    def __init__(self, tensors: Tensors, directory: ModelDirectory) -> None:
        super().__init__()
        text, part = directory.architecture.text_config, tensors.under("text_model")
        width, context = text.hidden_size, text.max_position_embeddings
        self.end_token_id = text.end_token_id
        self.embedding = _constant(part.take("embeddings.token_embedding.weight", text.vocab_size, width))
        self.positions = _constant(part.take("embeddings.position_embedding.weight", context, width))
        self.blocks, self.pooling = _blocks(part, text, causal=True)
        self.norm_after = _norm(part.under("final_layer_norm"), text)
        self.project = _linear(tensors.take("text_projection.weight", directory.dim, width))

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        length = token_ids.shape[1]
        # No attention mask for padding: it would disable the fused causal path, and causality hides what comes later.
        tokens = self.blocks(functional.embedding(token_ids, self.embedding) + self.positions[:length])
        end = self._end_of(token_ids).unsqueeze(1)
        rows = torch.arange(token_ids.shape[0], device=token_ids.device).unsqueeze(1)
        seen = torch.arange(length, device=token_ids.device) <= end
        pooled = self.pooling(tokens, tokens[rows, end], seen[:, None, None, :])
        vectors: torch.Tensor = self.project(self.norm_after(pooled[:, 0]))
        return vectors

    def _end_of(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Where each text ends, (n,): of equal ones, argmax gives the first."""
        ids = token_ids.int()
        return ids.argmax(dim=-1) if self.end_token_id is None else (ids == self.end_token_id).int().argmax(dim=-1)


class _Block(nn.Module):
    """Attention among all tokens (n, tokens, width), then the perceptron, each added to what came in."""

    def __init__(self, tensors: Tensors, config: Vision | Text, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.heads = config.num_attention_heads
        self.norm = _norm(tensors.under("layer_norm1"), config)
        self.query_key_value = _joined(tensors, config.hidden_size, "q_proj", "k_proj", "v_proj")
        self.out = _joined(tensors, config.hidden_size, "out_proj")
        self.perceptron = _Perceptron(tensors, config)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = _by_heads(self.query_key_value(self.norm(tokens)), 3, self.heads)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        changed: torch.Tensor = self.perceptron(tokens + self.out(attended.transpose(1, 2).flatten(2)))
        return changed


class _PoolingBlock(nn.Module):
    """The last block, for the one token that becomes the vector: nobody reads what the others would be."""

    def __init__(self, tensors: Tensors, config: Vision | Text) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.norm = _norm(tensors.under("layer_norm1"), config)
        self.query = _joined(tensors, config.hidden_size, "q_proj")
        self.key_value = _joined(tensors, config.hidden_size, "k_proj", "v_proj")
        self.out = _joined(tensors, config.hidden_size, "out_proj")
        self.perceptron = _Perceptron(tensors, config)

    def forward(self, tokens: torch.Tensor, one: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """`one` is (n, 1, width); `seen` (n, 1, 1, tokens) says which tokens it may look at, all without it."""
        [query] = _by_heads(self.query(self.norm(one)), 1, self.heads)
        key, value = _by_heads(self.key_value(self.norm(tokens)), 2, self.heads)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        changed: torch.Tensor = self.perceptron(one + self.out(attended.transpose(1, 2).flatten(2)))
        return changed


class _Perceptron(nn.Module):
    """Normalise, widen, activate, narrow, and add to what came in."""

    def __init__(self, tensors: Tensors, config: Vision | Text) -> None:
        super().__init__()
        self.activation, factor = _ACTIVATIONS[config.hidden_act]
        width, inner = config.hidden_size, config.intermediate_size
        widen, narrow = tensors.under("mlp.fc1"), tensors.under("mlp.fc2")
        self.norm = _norm(tensors.under("layer_norm2"), config)
        self.widen = _linear(widen.take("weight", inner, width) * factor, widen.take("bias", inner) * factor)
        self.narrow = _linear(narrow.take("weight", width, inner) / factor, narrow.take("bias", width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.narrow(self.activation(self.widen(self.norm(tokens))))
        return tokens + added


def _blocks(tensors: Tensors, config: Vision | Text, *, causal: bool) -> tuple[nn.Sequential, _PoolingBlock]:
    layers = [tensors.under(f"encoder.layers.{number}") for number in range(config.num_hidden_layers)]
    blocks = nn.Sequential(*(_Block(layer, config, causal=causal) for layer in layers[:-1]))
    return blocks, _PoolingBlock(layers[-1], config)


def _split(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """(n, 3, size, size) to (n, patches, 3 * patch * patch), while a value is still one byte."""
    side = pixels.shape[-1] // patch
    rows = pixels[..., : side * patch, : side * patch].reshape(-1, 3, side, patch, side, patch)
    return rows.permute(0, 2, 4, 1, 3, 5).reshape(-1, side * side, 3 * patch * patch)


def _embedding_of_pixels(kernel: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> nn.Linear:
    """The patch convolution as a matrix product over pixels minus `_MIDDLE_GREY`.

    Normalisation, (pixel / 255 - mean) / std, is a factor and a constant per channel, and both belong into the layer.
    """
    exact, channels = kernel.double(), (1, 3, 1, 1)
    factor = (1.0 / (_PIXEL_MAX * std.double())).view(channels)
    constant = ((_MIDDLE_GREY / _PIXEL_MAX - mean.double()) / std.double()).view(channels)
    bias = (exact * constant).sum(dim=(1, 2, 3))
    return _linear((exact * factor).flatten(1).float(), bias.float())


def _by_heads(joined: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """(n, tokens, parts * width) to `parts` of (n, heads, tokens, width / heads)."""
    count, length, width = joined.shape
    return joined.view(count, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def _joined(tensors: Tensors, width: int, *names: str) -> nn.Linear:
    """The attention's projections of one input as one layer."""
    parts = [tensors.under(f"self_attn.{name}") for name in names]
    weight = torch.cat([part.take("weight", width, width) for part in parts])
    return _linear(weight, torch.cat([part.take("bias", width) for part in parts]))


def _norm(tensors: Tensors, config: Vision | Text) -> nn.LayerNorm:
    norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, device="meta")
    norm.weight = _constant(tensors.take("weight", config.hidden_size))
    norm.bias = _constant(tensors.take("bias", config.hidden_size))
    return norm


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = _constant(weight)
    if bias is not None:
        linear.bias = _constant(bias)
    return linear


def _constant(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
