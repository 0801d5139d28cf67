"""The manifest of a baked model directory: where it came from, what every file must be. Never imports torch."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import StartError

MANIFEST = "manifest.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """One file as it was baked."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int
    sha256: Sha256


class TowerInInt8(BaseModel):
    """What int8 does to one tower, judged on inputs that it was not calibrated on.

    Errors are relative to the mean distance between the vectors of different inputs. Rates are of batches, on the
    machine that baked; bytes are those of the graph's file. A tower that is not `accepted` is served as it was.
    """

    model_config = ConfigDict(frozen=True)

    accepted: bool
    error_mean: float
    error_p99: float
    layers: int
    left_in_float: Sequence[str]
    float32_per_s: float
    int8_per_s: float
    float32_bytes: int
    int8_bytes: int


class Int8Report(BaseModel):
    """How the graphs in int8 came about, and what they cost: `top_1` and `top_10` are shares of the texts, and of the
    ten best images, for which a search gives the same. `fingerprint` is the model's where the vectors are the same."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    max_error: float
    calibrated_on: str
    pictures: int
    texts: int
    processor: str
    top_1: float
    top_10: float
    towers: Mapping[str, TowerInInt8]


class Manifest(BaseModel):
    """What `python -m core.clip.bake` writes beside the files. `source` is a hub id with its `revision`, or
    a directory, and then that is null.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    format: Literal[1] = 1
    source: str
    revision: str | None
    model_name: str
    pretrained: str
    fingerprint: str
    files: Mapping[str, FileEntry]
    int8: Int8Report | None = None


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest of a baked directory, None for any other. Raises `StartError` if it cannot be understood."""
    path = directory / MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StartError(f"CLIP_MODEL: {path} is not the manifest of a baked model: bake it again") from error


def verify_files(directory: Path, manifest: Manifest, *, hash_up_to_bytes: int | None = None) -> None:
    """Compare every file with the manifest: its size, and its checksum unless it is larger than `hash_up_to_bytes`.

    Raises `StartError` that names the first file which differs.
    """
    for name, entry in manifest.files.items():
        path = directory / name
        size_bytes = path.stat().st_size if path.is_file() else None
        if size_bytes is None:
            raise StartError(f"CLIP_MODEL: {directory} has no {name}, which its manifest lists")
        hashed = hash_up_to_bytes is None or size_bytes <= hash_up_to_bytes
        if size_bytes != entry.size_bytes or (hashed and sha256_of(path) != entry.sha256):
            raise StartError(f"CLIP_MODEL: the checksum of {path} is not the one in its manifest: bake it again")


def describe(path: Path) -> FileEntry:
    """Size and checksum of a file."""
    return FileEntry(size_bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
