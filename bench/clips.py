"""The CLIPs that people serve, as configurations, and model directories of them with random weights.

True are all sizes, the activations and the rules for the end of a text. Random weights embed nothing meaningful, but
clearly different vectors for different inputs: enough to compare two ways to compute them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel
from transformers.utils.logging import disable_progress_bar

from core.clip.architecture import Activation
from tools.testbed.process import TINY_MODEL

CONTEXT_LENGTH = 77
VOCABULARY = 49408
# What many files name as the end token, from before transformers looked at it: a text then ends at its highest id.
_LEGACY_END_ID = 2

# With CLIP's own scale of initial weights all inputs give nearly the same vector.
_INITIALIZER_FACTOR = 4.0


@dataclass(frozen=True, slots=True)
class Tower:
    """The perceptrons are four times as wide as the tower."""

    width: int
    layers: int
    heads: int

    def config(self, layers: int | None) -> dict[str, Any]:
        """As config.json has it, with fewer `layers` where that is asked for."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": layers or self.layers,
            "num_attention_heads": self.heads,
            "initializer_factor": _INITIALIZER_FACTOR,
        }


@dataclass(frozen=True, slots=True)
class Clip:
    """What tells one CLIP from another."""

    dim: int
    size_px: int
    patch_px: int
    images: Tower
    texts: Tower
    activation: Activation = "quick_gelu"
    names_end_token: bool = False

    def config(self, layers: int | None, vocabulary: int) -> CLIPConfig:
        """Its CLIPConfig, with the true number of layers unless another is asked for."""
        images = {"image_size": self.size_px, "patch_size": self.patch_px, "hidden_act": self.activation}
        texts = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT_LENGTH, "hidden_act": self.activation}
        _, end_id = ends(vocabulary)
        return CLIPConfig(
            projection_dim=self.dim,
            vision_config={**self.images.config(layers), **images},
            text_config={
                **self.texts.config(layers),
                **texts,
                "eos_token_id": end_id if self.names_end_token else _LEGACY_END_ID,
            },
            initializer_factor=_INITIALIZER_FACTOR,
        )


_TEXTS_512, _TEXTS_768, _TEXTS_1024 = Tower(512, 12, 8), Tower(768, 12, 12), Tower(1024, 24, 16)
_IMAGES_768, _IMAGES_1024, _IMAGES_1280 = Tower(768, 12, 12), Tower(1024, 24, 16), Tower(1280, 32, 16)

CLIPS: Mapping[str, Clip] = {
    "ViT-B/32": Clip(512, 224, 32, _IMAGES_768, _TEXTS_512),
    "ViT-B/32, laion2B": Clip(512, 224, 32, _IMAGES_768, _TEXTS_512, "gelu"),
    "ViT-B/16": Clip(512, 224, 16, _IMAGES_768, _TEXTS_512, names_end_token=True),
    "ViT-L/14": Clip(768, 224, 14, _IMAGES_1024, _TEXTS_768),
    "ViT-L/14, 336 px": Clip(768, 336, 14, _IMAGES_1024, _TEXTS_768, names_end_token=True),
    "ViT-H/14, laion2B": Clip(1024, 224, 14, _IMAGES_1280, _TEXTS_1024, "gelu"),
}


def ends(vocabulary: int) -> tuple[int, int]:
    """The ids of the tokens at the start and at the end of a text: the last two, as in CLIP's own tokenizer."""
    return vocabulary - 2, vocabulary - 1


def make(clip: Clip, target: Path, *, layers: int | None = None, vocabulary: int = VOCABULARY) -> CLIPModel:
    """Write a model directory into `target` and return transformers' model of it, in float32.

    Its tokenizer is the bundled model's, spread over the ids of a `vocabulary`, which is at least as large.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    model = CLIPModel(clip.config(layers, vocabulary))
    model.train(False)
    model.save_pretrained(target)
    (target / "tokenizer.json").write_text(json.dumps(_tokenizer(vocabulary)))
    size = {"size": clip.size_px, "crop_size": clip.size_px}
    (target / "preprocessor_config.json").write_text(json.dumps(size))
    return model


def _tokenizer(vocabulary: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((TINY_MODEL / "tokenizer.json").read_bytes())
    start_and_end = ends(vocabulary)
    special = {token["content"]: new for token, new in zip(content["added_tokens"], start_and_end, strict=True)}
    words = [word for word in content["model"]["vocab"] if word not in special]
    words += [f"<unused {number}>" for number in range(len(words), start_and_end[0])]
    content["model"]["vocab"] = {word: number for number, word in enumerate(words)} | special
    for token in content["added_tokens"]:
        token["id"] = special[token["content"]]
    for name in ("sep", "cls"):
        word, _ = content["post_processor"][name]
        content["post_processor"][name] = [word, special[word]]
    return content
