"""Where rows go: the one table from a file's suffix to what writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from clip_embedding_client.commands.array_file import ArrayFile
from clip_embedding_client.commands.lines_file import LinesFile, PrintedLines
from clip_embedding_client.commands.parquet_file import ParquetFile
from clip_embedding_client.commands.rows import Row
from clip_embedding_client.commands.usage import WrongUse


class Sink(Protocol):
    """Takes rows one by one and holds a bounded number of them.

    What an earlier run has left is there until this one has a row, or has ended without any.
    """

    @property
    def place(self) -> str:
        """Where they are, for people."""

    @property
    def resumable(self) -> bool:
        """Whether a later run can go on with it: its rows say what they are of."""

    def rows_there(self) -> Iterator[Row]:
        """Yield the rows of the run that this one goes on with; to be read to its end before the first `write`."""

    def write(self, row: Row) -> None: ...

    def finish(self) -> None:
        """All rows are written."""

    def close(self) -> None:
        """Keep what is written, finished or not; once more does nothing."""


def open_sink(out: Path | None, *, resume: bool) -> Sink:
    """Open what `out` names, standard output if None. Raises `WrongUse` and `OSError`."""
    if resume and (out is None or out.suffix not in (".jsonl", ".parquet")):
        raise WrongUse("--resume needs --out rows.jsonl or rows.parquet: nothing else holds the inputs of its rows")
    if out is None:
        return PrintedLines()
    if out.suffix == ".npy":
        return ArrayFile(out)
    if out.suffix == ".jsonl":
        return LinesFile(out, resume=resume)
    if out.suffix == ".parquet":
        return ParquetFile(out, resume=resume)
    raise WrongUse("--out must end in .npy, .jsonl or .parquet")
