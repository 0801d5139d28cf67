"""The fingerprint changes with what decides a vector, and with nothing else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.clip.fingerprint import fingerprint
from tests.support.process import TINY_MODEL

WEIGHTS = load_file(TINY_MODEL / "model.safetensors")
TOKENIZER = TINY_MODEL / "tokenizer.json"
BASE = fingerprint(WEIGHTS, TOKENIZER, pixel_rules=1, dim=512)


def test_order_and_storage_type_do_not_matter() -> None:
    """The same numbers in another order or in a wider type are the same model."""
    turned = dict(reversed([(name, tensor.to(torch.float64)) for name, tensor in WEIGHTS.items()]))

    assert BASE == fingerprint(turned, TOKENIZER, pixel_rules=1, dim=512)


def test_one_weight_matters() -> None:
    """A single changed number is another model."""
    changed = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
    next(iter(changed.values())).view(-1)[0] += 1e-3

    assert BASE != fingerprint(changed, TOKENIZER, pixel_rules=1, dim=512)


@pytest.mark.parametrize(("pixel_rules", "dim"), [pytest.param(2, 512, id="pixels"), pytest.param(1, 256, id="dim")])
def test_rules_matter(pixel_rules: int, dim: int) -> None:
    """Other pixel rules or another dimension give vectors that cannot be compared."""
    assert BASE != fingerprint(WEIGHTS, TOKENIZER, pixel_rules=pixel_rules, dim=dim)


def test_tokenizer_matters(tmp_path: Path) -> None:
    """Other tokens are other texts."""
    other = tmp_path / "tokenizer.json"
    other.write_bytes(TOKENIZER.read_bytes() + b" ")

    assert BASE != fingerprint(WEIGHTS, other, pixel_rules=1, dim=512)
