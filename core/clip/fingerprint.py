"""A short hash of everything that decides a vector: weights, tokenizer, pixel rules, dimension.

Numeric type, device and engine are left out: their effect is bounded by a tested tolerance. Vectors are
comparable exactly when their fingerprints are equal.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

_HEX_DIGITS = 16


def fingerprint(weights: Mapping[str, torch.Tensor], tokenizer: Path, *, pixel_rules: int, dim: int) -> str:
    """Return 16 hex digits. `weights` are hashed by name, shape and float32 value, so that the same numbers in
    another file format or order give the same fingerprint."""
    digest = hashlib.sha256(f"pixels {pixel_rules}, dim {dim}".encode())
    digest.update(hashlib.sha256(tokenizer.read_bytes()).digest())
    for name in sorted(weights):
        tensor = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()[:_HEX_DIGITS]
