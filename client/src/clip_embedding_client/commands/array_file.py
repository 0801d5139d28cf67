"""Vectors alone as .npy, appended one by one: nobody needs to know before how many there will be.

The format is numpy's, version 1.0 (numpy.lib.format); its header is made long enough for any number of rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clip_embedding_client.commands.rows import Row
from clip_embedding_client.commands.usage import WrongUse
from clip_embedding_client.errors import FingerprintMismatch
from clip_embedding_client.values import Vector

_MAGIC = b"\x93NUMPY\x01\x00"
# A multiple of 64, as the format asks; 60 of them are taken and 20 digits would still fit.
_HEADER_BYTES = 128
# What a killed process has written since is not counted by the header, and lost.
_ROWS_PER_HEADER = 1024


class ArrayFile:
    """One float32 row per input, (n, dim). A failed input is a row of NaN: the others keep their places."""

    resumable = False

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._path = path
        self._rows = 0
        self._dim = 0
        self._is_new = not path.exists()
        self._file = path.open("wb" if self._is_new else "r+b")
        self._is_begun = False

    def rows_there(self) -> Iterator[Row]:
        return iter(())

    def write(self, row: Row) -> None:
        self._begin()
        vector: Vector | None = row.get("embedding")
        if self._dim == 0 and vector is not None:
            self._begin_rows(vector.shape[0])
        if self._dim:
            self._append(vector)
        self._rows += 1
        if self._rows % _ROWS_PER_HEADER == 0:
            self._write_header()

    def finish(self) -> None:
        self._begin()

    def close(self) -> None:
        if self._file.closed:
            return
        if self._is_begun:
            self._write_header()
        self._file.close()
        if self._is_new and not self._is_begun:
            self._path.unlink(missing_ok=True)

    def _begin(self) -> None:
        if not self._is_begun:
            self._file.truncate()
            self._write_header()
            self._is_begun = True

    def _begin_rows(self, dim: int) -> None:
        """Now that it is known how long a row is: those that have failed before get theirs."""
        self._dim = dim
        for _ in range(self._rows):
            self._append(None)

    def _append(self, vector: Vector | None) -> None:
        if vector is None:
            vector = np.full(self._dim, np.nan, dtype=np.float32)
        if vector.shape != (self._dim,):
            raise FingerprintMismatch(f"vectors of {self._dim} and of {vector.shape[0]} numbers cannot be one array")
        self._file.write(vector.astype("<f4").tobytes())

    def _write_header(self) -> None:
        """Rows first: the header never counts what is not there."""
        self._file.flush()
        self._file.seek(0)
        self._file.write(_header(self._rows, self._dim))
        self._file.flush()
        self._file.seek(0, 2)


def open_array(path: Path) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
    """Return the vectors of a file, (n, dim), read where they lie. Raises `WrongUse`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # EOFError: it has no bytes.
    except (ValueError, EOFError) as error:
        raise WrongUse(f"{path}: is no array of numbers") from error
    if not isinstance(array, np.memmap) or array.ndim != 2 or array.dtype.kind != "f":
        raise WrongUse(f"{path}: must be an array of vectors, (n, dim)")
    return array


def _header(rows: int, dim: int) -> bytes:
    words = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    length = _HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + struct.pack("<H", length) + words.ljust(length - 1).encode("latin1") + b"\n"
