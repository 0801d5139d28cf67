"""A config.json is read as transformers reads it, and what is no CLIP is refused by name."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from transformers import CLIPConfig

from core.clip.architecture import Architecture, Text, Vision
from core.clip.artifact import open_model
from core.errors import StartError
from tools.testbed.process import TINY_MODEL

CONFIG = json.loads((TINY_MODEL / "config.json").read_bytes())

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model whose configuration a test may change."""
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))


def as_transformers(config: dict[str, Any]) -> dict[str, Any]:
    """What its CLIPConfig makes of a file, in the fields that decide a vector."""
    theirs = CLIPConfig.from_dict(json.loads(json.dumps(config))).to_dict()
    towers: Mapping[str, type[BaseModel]] = {"vision_config": Vision, "text_config": Text}
    fields = {name: {field: theirs[name][field] for field in tower.model_fields} for name, tower in towers.items()}
    return {"projection_dim": theirs["projection_dim"], **fields}


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"text_config": None, "vision_config": None}, id="null"),
        pytest.param({"text_config": {"hidden_size": 1024, "num_attention_heads": 16}}, id="some of a tower"),
        pytest.param({"projection_dim": 768, "vision_config": {"patch_size": 14}}, id="another space"),
        pytest.param(
            {"text_config": {"hidden_act": "gelu", "eos_token_id": 2}, "text_config_dict": {"hidden_size": 768}},
            id="both ways",
        ),
        pytest.param(
            {"vision_config": {"num_hidden_layers": 24}, "vision_config_dict": {"hidden_act": "gelu"}},
            id="both ways of the other tower",
        ),
        pytest.param({"text_config_dict": None, "vision_config_dict": {}}, id="empty"),
    ],
)
def test_configuration_is_read_as_transformers_reads_it(more: dict[str, Any]) -> None:
    """Defaults, and which of two names for the same thing counts."""
    config = {"model_type": "clip", **more}

    assert as_transformers(config) == Architecture.of(config).model_dump()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"model_type": name}, f"model_type is '{name}': supported is model_type 'clip'", id=name)
        for name in ("siglip", "siglip2", "align", "chinese_clip", "blip", "clipseg", "altclip", "clip_vision_model")
    ]
    + [
        pytest.param({"model_type": None}, "model_type is None: supported is", id="no type"),
        pytest.param(
            {"architectures": ["CLIPVisionModelWithProjection"]},
            r"architectures are \['CLIPVisionModelWithProjection'\]: supported is .*CLIPModel",
            id="one tower",
        ),
        pytest.param({"quantization_config": {"load_in_8bit": True}}, "quantization_config", id="quantized"),
    ],
)
def test_other_models_are_refused_by_name(model: Path, change: dict[str, Any], words: str) -> None:
    """They may have the same files, and tensors of the same names, and mean something else by them."""
    (model / "config.json").write_text(json.dumps({**CONFIG, **change}))

    with pytest.raises(StartError, match=rf"\ACLIP_MODEL: .*config\.json cannot be served: [^\n]*{words}[^\n]*\Z"):
        open_model(str(model))


@pytest.mark.parametrize(
    ("tower", "change", "words"),
    [
        pytest.param("vision_config", {"hidden_act": "relu"}, r"hidden_act is 'relu'.*'quick_gelu'", id="act"),
        pytest.param("vision_config", {"num_channels": 4}, "num_channels is 4, supported is 3", id="channels"),
        pytest.param("vision_config", {"image_size": [224, 336]}, r"image_size is \[224, 336\]", id="no square"),
        pytest.param("text_config", {"eos_token_id": [1, 2]}, r"eos_token_id is \[1, 2\]", id="several ends"),
        pytest.param("text_config", {"layer_norm_eps": float("nan")}, "layer_norm_eps is nan", id="no number"),
        pytest.param("text_config", {"hidden_size": 0}, "hidden_size is 0", id="zero"),
        pytest.param("text_config", {"hidden_size": "many"}, "hidden_size is 'many'", id="a word"),
        pytest.param("text_config", {"hidden_size": None}, "hidden_size is None", id="null"),
        pytest.param("text_config", {"hidden_size": 129}, "not a multiple of num_attention_heads", id="heads"),
    ],
)
def test_value_that_is_not_supported_is_named(model: Path, tower: str, change: dict[str, Any], words: str) -> None:
    """With the tower, the field, what it is and what it could be."""
    (model / "config.json").write_text(json.dumps({**CONFIG, tower: {**CONFIG[tower], **change}}))

    with pytest.raises(StartError, match=rf"\ACLIP_MODEL: .*config\.json cannot be served: {tower}[^\n]*{words}"):
        open_model(str(model))


@given(_JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(CONFIG, _JSON)))
def test_any_json_is_an_architecture_or_an_error(config: Any) -> None:  # noqa: ANN401 - any JSON
    """Whatever a file says, a start ends in a line and not in a traceback."""
    with suppress(ValueError):
        Architecture.of(config)


@given(st.sampled_from(["vision_config", "text_config"]), st.data())
def test_any_field_is_a_value_or_an_error(tower: str, data: st.DataObject) -> None:
    """The same one step further down, where the numbers are."""
    name = data.draw(st.sampled_from(sorted(CONFIG[tower])))
    config = {**CONFIG, tower: {**CONFIG[tower], name: data.draw(_JSON)}}
    with suppress(ValueError):
        Architecture.of(config)
