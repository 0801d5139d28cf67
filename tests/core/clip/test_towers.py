"""Our towers beside transformers' CLIPModel for configurations that the bundled model does not have."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from core.clip.architecture import Activation
from core.clip.artifact import open_model
from core.clip.towers import Towers
from core.clip.weights import read_weights
from core.errors import StartError
from tools.testbed.process import TINY_MODEL

_SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
# What transformers writes for models that were converted before it fixed the number.
_LEGACY_END_ID = 2
_END_ID = 99


def directory_of(path: Path, text: dict[str, Any], vision: dict[str, Any]) -> Any:  # noqa: ANN401 - untyped
    """Write a directory with small random weights and return transformers' model of it."""
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**_SMALL, "vocab_size": 100, "eos_token_id": _END_ID, **text},
        vision_config={**_SMALL, "image_size": 64, "patch_size": 16, **vision},
        projection_dim=32,
        initializer_factor=4.0,
    )
    clip = CLIPModel(config)
    clip.train(False)
    clip.save_pretrained(path)
    shutil.copyfile(TINY_MODEL / "tokenizer.json", path / "tokenizer.json")
    size_px = clip.vision_model.config.image_size
    (path / "preprocessor_config.json").write_text(json.dumps({"size": size_px, "crop_size": size_px}))
    return clip


def towers_of(path: Path) -> Towers:
    directory = open_model(str(path))
    return Towers.of(directory, read_weights(directory))


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A copy of the bundled model that a test may damage."""
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "spoilt"))


@pytest.mark.parametrize(
    ("text", "vision"),
    [
        pytest.param({}, {}, id="as the bundled model"),
        pytest.param({"hidden_act": "gelu"}, {"hidden_act": "gelu"}, id="GELU"),
        pytest.param({"eos_token_id": _LEGACY_END_ID}, {}, id="vector at the highest token id"),
        pytest.param({"num_hidden_layers": 1}, {"num_hidden_layers": 1}, id="one layer"),
        pytest.param({}, {"image_size": 70}, id="a rim that no patch covers"),
        pytest.param({"layer_norm_eps": 1e-2}, {"layer_norm_eps": 1e-2}, id="another epsilon"),
    ],
)
def test_towers_give_the_vectors_of_transformers(tmp_path: Path, text: dict[str, Any], vision: dict[str, Any]) -> None:
    """Whatever the configuration says, the arithmetic is the same, for texts that end at different places too."""
    reference, towers = directory_of(tmp_path, text, vision), towers_of(tmp_path)
    directory = open_model(str(tmp_path))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (directory.mean, directory.std))
    pixels = torch.randint(0, 256, (4, 3, directory.size_px, directory.size_px), dtype=torch.uint8)
    token_ids = torch.randint(3, _END_ID, (5, 12))
    for row, end in enumerate((1, 4, 7, 10, 11)):
        token_ids[row, end:] = _END_ID

    with torch.inference_mode():
        images = reference.get_image_features(pixel_values=(pixels / 255 - mean) / std).pooler_output
        texts = reference.get_text_features(input_ids=token_ids).pooler_output

        torch.testing.assert_close(towers.images(pixels), images, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(towers.texts(token_ids), texts, rtol=1e-4, atol=1e-4)


def test_copies_are_independent() -> None:
    """Another device's copy in another numeric type leaves the original as it is."""
    towers = towers_of(TINY_MODEL)
    copied = towers.on("cpu", "bfloat16")

    assert {torch.bfloat16} == {value.dtype for value in copied.images.state_dict().values()}
    assert {torch.float32} == {value.dtype for value in towers.images.state_dict().values()}


@pytest.mark.parametrize("activation", get_args(Activation))
def test_every_activation_that_a_configuration_may_name_is_known(tmp_path: Path, activation: str) -> None:
    """The list of names and the table of functions are in two places."""
    directory_of(tmp_path, {"hidden_act": activation}, {"hidden_act": activation})

    towers_of(tmp_path)


def test_weights_of_another_shape_are_refused(spoilt: Path) -> None:
    """The line names the tensor and what config.json says of it."""
    weights = load_file(spoilt / "model.safetensors")
    weights["visual_projection.weight"] = weights["visual_projection.weight"][:100].clone()
    save_file(weights, spoilt / "model.safetensors")

    with pytest.raises(StartError, match=r"visual_projection\.weight of shape \(100, 128\).*config\.json"):
        towers_of(spoilt)
