"""The fingerprint changes with everything that decides a vector, and with nothing else."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from core.clip.architecture import Architecture
from core.clip.artifact import ModelDirectory, open_model
from core.clip.fingerprint import fingerprint_of_hashes, hash_weights, is_version_1
from core.clip.tensors import Tensor
from core.clip.weights import Weights, read_weights
from tools.testbed.process import TINY_MODEL

DIRECTORY = open_model(str(TINY_MODEL))
WEIGHTS = read_weights(DIRECTORY)
HASHES = hash_weights(WEIGHTS)

# What of a model directory decides no vector: where it lies, what it is called, what it promises.
_NAMES = {"path", "model_name", "pretrained", "hub_id", "baked_fingerprint"}


def print_of(directory: ModelDirectory = DIRECTORY, *, weights: Weights | None = None, pixel_rules: int = 1) -> str:
    hashes = HASHES if weights is None else hash_weights(weights)
    return fingerprint_of_hashes(hashes, directory, pixel_rules=pixel_rules)


BASE = print_of()


def with_(model: BaseModel, path: tuple[str, ...], value: object) -> BaseModel:
    """A copy with one field changed, of whatever depth; nothing is validated."""
    name, *rest = path
    return model.model_copy(update={name: with_(getattr(model, name), tuple(rest), value) if rest else value})


def leaves(model: BaseModel, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field that is no model itself, and its value."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def other(value: object) -> object:
    """Another value of the same type, of one that a configuration has."""
    if isinstance(value, str):
        return value + "_"
    assert isinstance(value, int | float)
    return value + 1 if isinstance(value, int) else value * (1 + 1e-9)


ARCHITECTURE_FIELDS = [pytest.param(path, value, id=".".join(path)) for path, value in leaves(DIRECTORY.architecture)]


def test_bundled_model_keeps_its_fingerprint() -> None:
    """Stores are keyed by it: another way to compute it must give the digits that are in them already."""
    assert BASE == "2-506bf64fd54d7ed1"


def test_version_is_in_front_of_the_digits() -> None:
    """Whoever reads an old one, bare digits, can tell what it is."""
    assert re.fullmatch(r"2-[0-9a-f]{16}", BASE)
    assert not is_version_1(BASE)
    assert is_version_1("7bf860063b1eaba3")


@pytest.mark.parametrize(("path", "value"), ARCHITECTURE_FIELDS)
def test_every_field_of_the_architecture_matters(path: tuple[str, ...], value: object) -> None:
    """Found by looking at the model, so that one which is added later cannot be forgotten."""
    changed = with_(DIRECTORY.architecture, path, other(value))
    assert isinstance(changed, Architecture)

    assert BASE != print_of(replace(DIRECTORY, architecture=changed))


def test_no_two_fields_of_the_architecture_are_taken_for_each_other() -> None:
    """Twelve layers in one tower are not twelve layers in the other one."""
    changed = [with_(DIRECTORY.architecture, path, 7) for path, _ in leaves(DIRECTORY.architecture)]
    prints = {print_of(replace(DIRECTORY, architecture=one)) for one in changed if isinstance(one, Architecture)}

    assert len(ARCHITECTURE_FIELDS) == len(prints)


@pytest.mark.parametrize("channel", [0, 1, 2], ids=["red", "green", "blue"])
def test_mean_and_deviation_matter(channel: int) -> None:
    """In each channel, and each of the two for itself."""
    more = tuple(1e-3 if number == channel else 0.0 for number in range(3))
    red, green, blue = (np.add(DIRECTORY.mean, more)).tolist()
    other_mean = print_of(replace(DIRECTORY, mean=(red, green, blue)))
    red, green, blue = (np.add(DIRECTORY.std, more)).tolist()
    other_std = print_of(replace(DIRECTORY, std=(red, green, blue)))

    assert 3 == len({BASE, other_mean, other_std})


def test_mean_is_not_taken_for_the_deviation() -> None:
    """Exchanged, they give other pixels."""
    assert BASE != print_of(replace(DIRECTORY, mean=DIRECTORY.std, std=DIRECTORY.mean))


def test_a_field_of_the_directory_is_a_name_or_is_tried_here() -> None:
    """Whoever adds one has to say which. What a manifest tells of int8 has a fingerprint of its own."""
    assert _NAMES | {"architecture", "mean", "std", "int8"} == {field.name for field in fields(ModelDirectory)}


def test_names_do_not_matter() -> None:
    """The same model in another place, under another name, gives the same vectors."""
    elsewhere = replace(DIRECTORY, model_name="other", pretrained="elsewhere", baked_fingerprint="2-0000000000000000")

    assert BASE == print_of(elsewhere)


def test_order_and_storage_type_do_not_matter() -> None:
    """The same numbers in another order or in a wider type are the same model."""
    turned = {name: Tensor(tensor.stored.astype(np.float64)) for name, tensor in reversed(list(WEIGHTS.items()))}

    assert BASE == print_of(weights=turned)


def test_one_weight_matters() -> None:
    """A single changed number is another model."""
    name, tensor = next(iter(WEIGHTS.items()))
    changed = tensor.stored.copy()
    changed.flat[0] += 1e-3

    assert BASE != print_of(weights={**WEIGHTS, name: Tensor(changed)})


def test_shape_matters() -> None:
    """The same bytes as another matrix are another model."""
    name = "visual_projection.weight"
    turned = replace(WEIGHTS[name], stored=WEIGHTS[name].stored.reshape(-1))

    assert BASE != print_of(weights={**WEIGHTS, name: turned})


def test_tensor_that_no_tower_reads_matters() -> None:
    """Nobody here knows what it is for, and calling two models the same takes knowledge."""
    assert BASE != print_of(weights={**WEIGHTS, "adapter": Tensor(np.zeros(1, dtype=np.float32))})


def test_pixel_rules_matter() -> None:
    """Other pixel rules give vectors that cannot be compared."""
    assert BASE != print_of(pixel_rules=2)


def test_tokenizer_matters(tmp_path: Path) -> None:
    """Other tokens are other texts."""
    (tmp_path / "tokenizer.json").write_bytes(DIRECTORY.tokenizer_path.read_bytes() + b" ")

    assert BASE != print_of(replace(DIRECTORY, path=tmp_path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model whose configuration a test may write anew."""
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))


def rewritten(path: Path, content: object) -> ModelDirectory:
    path.write_text(json.dumps(content))
    return open_model(str(path.parent))


def test_defaults_that_are_written_out_do_not_matter(model: Path) -> None:
    """What a file leaves out and what it says are the same model where they are the same numbers."""
    config = json.loads((model / "config.json").read_bytes())
    whole = DIRECTORY.architecture.model_dump()
    standard = Architecture().model_dump()
    short = {"model_type": "clip", "projection_dim": 512}
    for tower in ("vision_config", "text_config"):
        config[tower] |= whole[tower]
        short[tower] = {name: value for name, value in whole[tower].items() if value != standard[tower][name]}

    assert BASE == print_of(replace(rewritten(model / "config.json", config)))
    assert BASE == print_of(replace(rewritten(model / "config.json", short)))


def test_mean_and_deviation_that_are_written_out_do_not_matter(model: Path) -> None:
    """With eight digits, with the seventeen of a float32, or not at all: they are CLIP's own."""
    path = model / "preprocessor_config.json"
    values = {"image_mean": DIRECTORY.mean, "image_std": DIRECTORY.std}
    long = {name: np.asarray(value, np.float32).tolist() for name, value in values.items()}

    assert values["image_mean"] != tuple(long["image_mean"])
    assert BASE == print_of(rewritten(path, long))
    assert BASE == print_of(rewritten(path, {}))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"attention_dropout": 0.5, "initializer_range": 1.0}, id="of training"),
        pytest.param({"projection_dim": 64, "pad_token_id": 7}, id="of another head"),
    ],
)
def test_what_decides_no_vector_does_not_matter(model: Path, change: dict[str, object]) -> None:
    """transformers writes much that serving never asks for."""
    config = json.loads((model / "config.json").read_bytes())
    config["text_config"] |= change
    config |= {"logit_scale_init_value": 1.0, "transformers_version": "4.0.0"}

    assert BASE == print_of(rewritten(model / "config.json", config))
