"""A short hash of everything that decides a vector: weights, architecture, tokenizer, pixel rules, mean and deviation.

Numeric type, device and engine are left out: their effect is bounded by a tested tolerance. Vectors are
comparable exactly when their fingerprints are equal. docs/decisions/0022-fingerprint-2.md says why each is in it.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from core.clip.artifact import ModelDirectory
from core.clip.tensors import Tensor
from core.clip.weights import Weights
from core.process import cpu

# Shown before the digits, so that a hash of other things is known for what it is. Raise it when the hash covers
# something else, or the same in another form.
_VERSION = 2
_HEX_DIGITS = 16

_OF_VERSION_1 = re.compile(r"[0-9a-f]{16}")

VERSION_1_EXPLAINED = (
    "a version-1 fingerprint, which left out the activation and the rest of the architecture, mean and deviation"
)


def fingerprint(weights: Weights, directory: ModelDirectory, *, pixel_rules: int) -> str:
    """Return `2-` and 16 hex digits. `weights` are hashed by name, shape and float32 value, so that the same numbers in
    another file format or order give the same fingerprint."""
    return fingerprint_of_hashes(hash_weights(weights), directory, pixel_rules=pixel_rules)


def fingerprint_of_hashes(hashes: bytes, directory: ModelDirectory, *, pixel_rules: int) -> str:
    """The same, from what `hash_weights` has returned."""
    digest = hashlib.sha256(_described(directory, pixel_rules))
    digest.update(hashlib.sha256(directory.tokenizer_path.read_bytes()).digest())
    digest.update(hashes)
    return f"{_VERSION}-{digest.hexdigest()[:_HEX_DIGITS]}"


def fingerprint_of_variant(model_fingerprint: str, graphs: Iterable[bytes]) -> str:
    """That of vectors which are not the model's own any more, but come from these graphs of it."""
    digest = hashlib.sha256(model_fingerprint.encode())
    for graph in graphs:
        digest.update(hashlib.sha256(graph).digest())
    return f"{_VERSION}-{digest.hexdigest()[:_HEX_DIGITS]}"


def is_version_1(text: str) -> bool:
    """Whether a fingerprint is of the time when they had no version: sixteen digits and nothing else."""
    return _OF_VERSION_1.fullmatch(text) is not None


def hash_weights(weights: Weights) -> bytes:
    """Return name, shape and SHA-256 of every tensor's values, in the order of the names.

    Tensor by tensor on several cores: 600 MB take 0.4 s on one.
    """
    names = sorted(weights)
    with ThreadPoolExecutor(cpu.available_cores()) as threads:
        of_values = threads.map(_hash_values, [weights[name] for name in names])
        return b"".join(
            f"{name} {weights[name].shape}".encode() + values for name, values in zip(names, of_values, strict=True)
        )


def _described(directory: ModelDirectory, pixel_rules: int) -> bytes:
    """Values, and not the text of the files: a default that is written out is the same model as one that is not."""
    values = {
        "version": _VERSION,
        "pixel_rules": pixel_rules,
        "architecture": directory.architecture.model_dump(),
        # As the towers take them. Files have them with eight digits or with seventeen.
        "mean": np.asarray(directory.mean, np.float32).tolist(),
        "std": np.asarray(directory.std, np.float32).tolist(),
    }
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _hash_values(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.float32().data).digest()
