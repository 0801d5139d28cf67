"""Rows as JSON lines: printed, or in a file that is whole up to its last line whenever the process ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clip_embedding_client.commands.rows import Row
from clip_embedding_client.commands.usage import WrongUse


class PrintedLines:
    """Standard output."""

    place = "standard output"
    resumable = False

    def rows_there(self) -> Iterator[Row]:
        return iter(())

    def write(self, row: Row) -> None:
        sys.stdout.write(_line(row))
        sys.stdout.flush()

    def finish(self) -> None: ...

    def close(self) -> None: ...


class LinesFile:
    """Each row is in the file as soon as it is written. With `resume` what is there stays."""

    resumable = True

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.place = str(path)
        self._path = path
        self._is_new = not path.exists()
        # Without a buffer: no row waits, and none is written by halves. A pipe has nothing that could be kept.
        self._file = path.open("r+b" if path.is_file() else "wb", buffering=0)
        self._is_begun = resume and not self._is_new

    def rows_there(self) -> Iterator[Row]:
        """Yield them, then cut off what a killed run has left of a line. Raises `WrongUse`."""
        if not self._is_begun:
            return
        end_bytes = 0
        for row, end in read_lines(self._path):
            yield row
            end_bytes = end
        self._file.truncate(end_bytes)
        self._file.seek(end_bytes)

    def write(self, row: Row) -> None:
        self._begin()
        left = memoryview(_line(row).encode())
        while left:
            left = left[self._file.write(left) :]

    def finish(self) -> None:
        self._begin()

    def close(self) -> None:
        self._file.close()
        if self._is_new and not self._is_begun:
            self._path.unlink(missing_ok=True)

    def _begin(self) -> None:
        if not self._is_begun:
            if self._file.seekable():
                self._file.truncate()
            self._is_begun = True


def read_lines(path: Path) -> Iterator[tuple[Row, int]]:
    """Yield each whole line's row and the byte where it ends. Raises `WrongUse` for what is no row."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(_whole(file), start=1):
            end += len(line)
            yield _row(line, f"{path}: line {number}"), end


def _whole(file: BinaryIO) -> Iterator[bytes]:
    """Without the last line if it has no end: its process was killed, or still writes."""
    return (line for line in file if line.endswith(b"\n"))


def _row(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"{where} is not JSON") from error
    if not isinstance(row, dict):
        raise WrongUse(f"{where} is no row of clip-embed embed")
    return row


def _line(row: Row) -> str:
    return json.dumps(row, default=_as_list) + "\n"


def _as_list(value: object) -> object:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} is no part of a row")
    return value.tolist()
