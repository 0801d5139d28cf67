"""Vectors that `clip-embed embed` has written, in blocks: a file of any length needs little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_embedding_client.commands.array_file import open_array
from clip_embedding_client.commands.lines_file import read_lines
from clip_embedding_client.commands.parquet_file import part_files, parts_of, read_batches
from clip_embedding_client.commands.rows import Row
from clip_embedding_client.commands.usage import WrongUse

_ROWS_PER_BLOCK = 4096
_COLUMNS = ("kind", "input", "fingerprint", "embedding")

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Place:
    """What a row is of; both are None where the file does not say."""

    kind: str | None = None
    input: str | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that follow each other: `vectors` is (n, dim), NaN where there is none; `places` are as many, or none."""

    vectors: Matrix
    places: Sequence[Place]
    fingerprints: frozenset[str]


def read_blocks(path: Path) -> Iterator[Block]:
    """Yield all rows of the file, or of what an interrupted run has left of it. Raises `WrongUse` and `OSError`."""
    if path.suffix == ".npy":
        return _array_blocks(path)
    if path.suffix == ".jsonl":
        return _line_blocks(path)
    if path.suffix == ".parquet":
        return _parquet_blocks(path if path.exists() or not parts_of(path).exists() else parts_of(path))
    if path.suffix == ".parts":
        return _parquet_blocks(path)
    raise WrongUse("--vectors must end in .npy, .jsonl or .parquet")


def _array_blocks(path: Path) -> Iterator[Block]:
    array = open_array(path)
    for start in range(0, len(array), _ROWS_PER_BLOCK):
        yield Block(np.asarray(array[start : start + _ROWS_PER_BLOCK], dtype=np.float32), (), frozenset())


def _line_blocks(path: Path) -> Iterator[Block]:
    rows: list[Row] = []
    for row, _ in read_lines(path):
        rows.append(row)
        if len(rows) == _ROWS_PER_BLOCK:
            yield _block(path, rows, [row.get("embedding") for row in rows])
            rows = []
    if rows:
        yield _block(path, rows, [row.get("embedding") for row in rows])


def _parquet_blocks(path: Path) -> Iterator[Block]:
    for batch in read_batches(part_files(path), _COLUMNS):
        rows = batch.select(["kind", "input", "fingerprint"]).to_pylist()
        yield _block(path, rows, batch.column("embedding").to_numpy(zero_copy_only=False))


def _block(path: Path, rows: Sequence[Row], vectors: Sequence[Any]) -> Block:
    places = [Place(row.get("kind"), row.get("input")) for row in rows]
    fingerprints = frozenset(str(row["fingerprint"]) for row in rows if row.get("fingerprint") is not None)
    return Block(_matrix(path, vectors), places, fingerprints)


def _matrix(path: Path, vectors: Sequence[Any]) -> Matrix:
    there = [position for position, vector in enumerate(vectors) if vector is not None]
    if not there:
        return np.empty((len(vectors), 0), dtype=np.float32)
    try:
        rows = np.asarray([vectors[position] for position in there], dtype=np.float32)
        matrix = np.full((len(vectors), rows.shape[1]), np.nan, dtype=np.float32)
    except (ValueError, TypeError, IndexError) as error:
        raise WrongUse(f"{path}: the rows are not vectors of one length") from error
    matrix[there] = rows
    return matrix
