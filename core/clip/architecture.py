"""The shape of a CLIP, from its config.json: sizes, activation, and where the text tower reads its vector.

Names, defaults and precedence are those of transformers' CLIPConfig, which wrote the file. Never imports torch.
All of it enters the fingerprint: what decides no vector has no place here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(gt=0)]
Epsilon = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Activation = Literal["gelu", "quick_gelu"]

# What transformers wrote before it knew better: the vector is then read at the highest token id instead.
_LEGACY_END_TOKEN_ID = 2

_MODEL_TYPE = "clip"
_MODEL_CLASS = "CLIPModel"
_SUPPORTED = f"supported is model_type '{_MODEL_TYPE}', saved from {_MODEL_CLASS}"
_CHANNELS = 3


class _Encoder(BaseModel):
    """What both towers have: `num_hidden_layers` blocks of attention and a two-layer perceptron."""

    model_config = ConfigDict(frozen=True)

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count = 12
    num_attention_heads: Count
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is not a multiple of num_attention_heads")
        return self


class Vision(_Encoder):
    """The image tower, over square patches of RGB."""

    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_attention_heads: Count = 12
    image_size: Count = 224
    patch_size: Count = 32

    @model_validator(mode="before")
    @classmethod
    def _is_of_colours(cls, config: object) -> object:
        channels = config.get("num_channels", _CHANNELS) if isinstance(config, Mapping) else _CHANNELS
        if channels != _CHANNELS:
            raise ValueError(f"num_channels is {channels!r}, supported is {_CHANNELS}")
        return config


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

    projection_dim: Count = 512
    vision_config: Vision = Vision()
    text_config: Text = Text()

    @classmethod
    def of(cls, config: Any) -> Self:  # noqa: ANN401 - straight from JSON
        """Read a config.json. Raises `ValueError` that names what it asks for and what is supported."""
        if not isinstance(config, Mapping):
            raise ValueError("it is not an object")  # noqa: TRY004 - what is wrong is a value in a file
        _require_clip(config)
        towers = {name: _tower(config, name) for name in ("vision_config", "text_config")}
        sizes = {name: config[name] for name in ("projection_dim",) if name in config}
        return cls.model_validate({**sizes, **towers})


def _require_clip(config: Mapping[str, Any]) -> None:
    """Families that look alike (SigLIP, ALIGN, ChineseCLIP, BLIP) differ in arithmetic, not in the names of files."""
    if config.get("model_type") != _MODEL_TYPE:
        raise ValueError(f"its model_type is {config.get('model_type')!r}: {_SUPPORTED}")
    classes = config.get("architectures")
    if classes is not None and classes != [_MODEL_CLASS]:
        raise ValueError(f"its architectures are {classes!r}: {_SUPPORTED}")
    if config.get("quantization_config") is not None:
        raise ValueError("it has a quantization_config: supported are weights as they were trained")


def _tower(config: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - straight from JSON
    """Old files say it twice, and differently at times: transformers takes the `_dict` for the whole truth."""
    for given in (config.get(f"{name}_dict"), config.get(name)):
        if given is not None:
            return given
    return {}
