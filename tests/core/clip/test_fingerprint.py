"""The fingerprint changes with what decides a vector, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.clip.artifact import open_model
from core.clip.fingerprint import fingerprint
from core.clip.tensors import Tensor
from core.clip.weights import read_weights
from tools.testbed.process import TINY_MODEL

WEIGHTS = read_weights(open_model(str(TINY_MODEL)))
TOKENIZER = TINY_MODEL / "tokenizer.json"
BASE = fingerprint(WEIGHTS, TOKENIZER, pixel_rules=1, dim=512)


def test_bundled_model_keeps_its_fingerprint() -> None:
    """Stores are keyed by it: another way to compute it must give the digits that are in them already."""
    assert BASE == "7bf860063b1eaba3"


def test_order_and_storage_type_do_not_matter() -> None:
    """The same numbers in another order or in a wider type are the same model."""
    turned = {name: Tensor(tensor.stored.astype(np.float64)) for name, tensor in reversed(list(WEIGHTS.items()))}

    assert BASE == fingerprint(turned, TOKENIZER, pixel_rules=1, dim=512)


def test_one_weight_matters() -> None:
    """A single changed number is another model."""
    name, tensor = next(iter(WEIGHTS.items()))
    changed = tensor.stored.copy()
    changed.flat[0] += 1e-3

    assert BASE != fingerprint({**WEIGHTS, name: Tensor(changed)}, TOKENIZER, pixel_rules=1, dim=512)


def test_shape_matters() -> None:
    """The same bytes as another matrix are another model."""
    name = "visual_projection.weight"
    turned = replace(WEIGHTS[name], stored=WEIGHTS[name].stored.reshape(-1))

    assert BASE != fingerprint({**WEIGHTS, name: turned}, TOKENIZER, pixel_rules=1, dim=512)


@pytest.mark.parametrize(("pixel_rules", "dim"), [pytest.param(2, 512, id="pixels"), pytest.param(1, 256, id="dim")])
def test_rules_matter(pixel_rules: int, dim: int) -> None:
    """Other pixel rules or another dimension give vectors that cannot be compared."""
    assert BASE != fingerprint(WEIGHTS, TOKENIZER, pixel_rules=pixel_rules, dim=dim)


def test_tokenizer_matters(tmp_path: Path) -> None:
    """Other tokens are other texts."""
    other = tmp_path / "tokenizer.json"
    other.write_bytes(TOKENIZER.read_bytes() + b" ")

    assert BASE != fingerprint(WEIGHTS, other, pixel_rules=1, dim=512)
