"""The shape of a CLIP, from its config.json: sizes, activation, and where the text tower reads its vector.

Names and defaults are those of transformers' CLIPConfig, which wrote the file. Never imports torch.
"""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(gt=0)]

# What transformers wrote before it knew better: the vector is then read at the highest token id instead.
_LEGACY_END_TOKEN_ID = 2


class _Encoder(BaseModel):
    """What both towers have: `num_hidden_layers` blocks of attention and a two-layer perceptron."""

    model_config = ConfigDict(frozen=True)

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count = 12
    num_attention_heads: Count
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is not a multiple of num_attention_heads")
        return self


class Vision(_Encoder):
    """The image tower, over square patches."""

    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_attention_heads: Count = 12
    image_size: Count = 224
    patch_size: Count = 32


class Text(_Encoder):
    """The text tower, causal."""

    hidden_size: Count = 512
    intermediate_size: Count = 2048
    num_attention_heads: Count = 8
    max_position_embeddings: Count = 77
    vocab_size: Count = 49408
    eos_token_id: int = 49407

    @property
    def end_token_id(self) -> int | None:
        """The token at whose first occurrence the vector is read; None where that is the highest id of a text."""
        return None if self.eos_token_id == _LEGACY_END_TOKEN_ID else self.eos_token_id


class Architecture(BaseModel):
    """Both towers and the size of the space they share."""

    model_config = ConfigDict(frozen=True)

    projection_dim: Count
    vision_config: Vision
    text_config: Text
