"""Rows as Parquet, which cannot be appended to: parts of some thousand rows while a run lasts, one file at its end.

`rows.parquet` is made in `rows.parquet.parts/`. A part is there whole or not at all, and each can be read by itself;
so whatever ends a run, all but the rows of its last part are kept. Needs pyarrow, which is imported when it is asked
for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from clip_embedding_client.commands.rows import Row
from clip_embedding_client.commands.usage import WrongUse

# Some 10 MB of vectors in memory, and row groups of a size that readers like.
ROWS_PER_PART = 4096

_NAME = "part-{:06}.parquet"
_NAMES = "part-*.parquet"
_UNFINISHED = "unfinished.parquet"
# What tells whose a row is.
_PLACE = ("kind", "index", "input", "fingerprint")


class ParquetFile:
    """With `resume` what is there stays: parts, or a whole file, which becomes the first part."""

    resumable = True

    def __init__(self, path: Path, *, resume: bool) -> None:
        require_pyarrow()
        self._path = path
        self._folder = parts_of(path)
        self._rows: list[Row] = []
        self._parts = 0
        self._is_begun = resume
        # Now, not after thousands of rows.
        self._folder.mkdir(exist_ok=True)

    @property
    def place(self) -> str:
        return str(self._folder if self._folder.exists() else self._path)

    def rows_there(self) -> Iterator[Row]:
        """Yield them without their vectors. Raises `WrongUse`, and then everything is where it was."""
        if not self._is_begun:
            return
        # Both: a process was killed after it had made the file, before the parts were gone.
        is_whole = self._path.exists()
        for batch in read_batches([self._path] if is_whole else part_files(self._folder), _PLACE):
            yield from batch.to_pylist()
        if is_whole:
            self._remove_parts()
            os.replace(self._path, self._folder / _NAME.format(0))
        self._parts = len(part_files(self._folder))

    def write(self, row: Row) -> None:
        self._begin()
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_PART:
            self._write_part()

    def finish(self) -> None:
        """Join the parts to one file."""
        self._begin()
        self._write_part()
        unfinished = self._folder / _UNFINISHED
        parts = part_files(self._folder)
        if len(parts) == 1:
            os.replace(parts[0], unfinished)
        else:
            _join(parts, unfinished)
        os.replace(unfinished, self._path)
        self._remove_parts()
        self._folder.rmdir()

    def close(self) -> None:
        """Leave what a run has written so far as parts; nothing is left to do after `finish`."""
        if self._rows:
            self._write_part()
        elif self._folder.exists() and not part_files(self._folder):
            # Of a run that was killed.
            (self._folder / _UNFINISHED).unlink(missing_ok=True)
            self._folder.rmdir()

    def _begin(self) -> None:
        if not self._is_begun:
            self._remove_parts()
            self._path.unlink(missing_ok=True)
            self._is_begun = True

    def _write_part(self) -> None:
        """An empty part too if there is no other: a run without rows leaves a file without rows."""
        if not self._rows and self._parts:
            return
        arrow, parquet = require_pyarrow()
        table = arrow.Table.from_pylist(self._rows, schema=_schema(arrow))
        unfinished = self._folder / _UNFINISHED
        parquet.write_table(table, unfinished)
        os.replace(unfinished, self._folder / _NAME.format(self._parts))
        self._parts += 1
        self._rows = []

    def _remove_parts(self) -> None:
        for part in [*part_files(self._folder), self._folder / _UNFINISHED]:
            part.unlink(missing_ok=True)


def require_pyarrow() -> tuple[Any, Any]:
    """Return `pyarrow` and `pyarrow.parquet`. Raises `WrongUse` where it is not installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise WrongUse("Parquet needs pyarrow: pip install 'clip-embedding-client[parquet]'") from error


def parts_of(path: Path) -> Path:
    """Return the folder in which the file is made."""
    return path.with_name(path.name + ".parts")


def part_files(path: Path) -> list[Path]:
    """Return the files of a folder of parts in order, or the file itself."""
    return sorted(path.glob(_NAMES)) if path.is_dir() else [path]


def read_batches(files: Sequence[Path], columns: Sequence[str]) -> Iterator[Any]:
    """Yield pyarrow's batches of some thousand rows. Raises `WrongUse` for what is no file of rows."""
    arrow, parquet = require_pyarrow()
    for file in files:
        try:
            opened = parquet.ParquetFile(file)
        except arrow.ArrowInvalid as error:
            raise WrongUse(f"{file}: is no whole Parquet file") from error
        with opened:
            missing = set(columns) - set(opened.schema_arrow.names)
            if missing:
                raise WrongUse(f"{file}: has no column {min(missing)}")
            yield from opened.iter_batches(ROWS_PER_PART, columns=list(columns))


def _join(parts: Sequence[Path], whole: Path) -> None:
    arrow, parquet = require_pyarrow()
    schema = _schema(arrow)
    with parquet.ParquetWriter(whole, schema) as writer:
        for batch in read_batches(parts, schema.names):
            writer.write_batch(batch)


def _schema(arrow: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    error = [("code", arrow.string()), ("message", arrow.string()), ("retryable", arrow.bool_())]
    return arrow.schema(
        [
            ("kind", arrow.string()),
            ("index", arrow.int64()),
            ("input", arrow.string()),
            ("request_id", arrow.string()),
            ("embedding", arrow.list_(arrow.float32())),
            ("dim", arrow.int32()),
            ("normalized", arrow.bool_()),
            ("truncated", arrow.bool_()),
            ("fingerprint", arrow.string()),
            ("backend", arrow.string()),
            ("error", arrow.struct(error)),
        ]
    )
