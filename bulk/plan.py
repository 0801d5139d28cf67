"""The plan of a run: every row of the input with a place of its own, written down before anything is embedded.

    OUTPUT/_bulk/plan.json            what is embedded, by which model; there once the plan is whole
    OUTPUT/_bulk/rows/part-00000.parquet   ids and sources, in order; a row group is a piece

A piece is what is embedded at once, and lost when a machine dies. A part has many pieces and is a file of the output.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from bulk.errors import BulkError
from bulk.inputs import ID, Input, Kind
from bulk.places import Place, explained

_VERSION = 1
_FOLDER, _FILE, _ROWS, _PIECES = "_bulk", "plan.json", "rows", "pieces"
_VECTORS, _REJECTS = "vectors", "rejects"
PART_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Model:
    """Whose vectors they are, and how they are written."""

    name: str
    fingerprint: str
    dim: int
    size_px: int


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be embedded, and how it is written: the same when a run goes on."""

    input: Input
    model: Model
    dtype: str
    """Of the vectors as written: `float32` or `float16`."""
    format: str
    """Of the files: `parquet` or `lance`."""
    piece_rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`parts` has the number of rows of each."""

    planned: Planned
    parts: tuple[int, ...]

    @property
    def input(self) -> Input:
        return self.planned.input

    @property
    def model(self) -> Model:
        return self.planned.model

    @property
    def dtype(self) -> str:
        return self.planned.dtype

    @property
    def piece_rows(self) -> int:
        return self.planned.piece_rows

    @property
    def rows(self) -> int:
        return sum(self.parts)

    def rows_of(self, part: int, piece: int) -> int:
        """How many rows a piece has."""
        return min(self.piece_rows, self.parts[part] - piece * self.piece_rows)

    def pieces_of(self, part: int) -> int:
        """How many pieces a part has."""
        return -(-self.parts[part] // self.piece_rows)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where what lies in an output."""

    output: Place

    @property
    def vectors(self) -> Place:
        return self.output / _VECTORS

    @property
    def rejects(self) -> Place:
        return self.output / _REJECTS

    @property
    def state(self) -> Place:
        return self.output / _FOLDER

    @property
    def plan(self) -> Place:
        return self.state / _FILE

    @property
    def rows(self) -> Place:
        return self.state / _ROWS

    @property
    def pieces(self) -> Place:
        """Of parts that are not complete yet."""
        return self.state / _PIECES

    def part_of_rows(self, part: int) -> Place:
        return self.rows / part_name(part)


def part_name(part: int) -> str:
    """The name of a part's file, wherever it is."""
    return f"part-{part:05d}.parquet"


def write_plan(folders: Folders, planned: Planned, batches: Iterable[pa.Table]) -> Plan:
    """Write down all rows, and then the plan. Raises `BulkError` for what is wrong with them; then there is no plan."""
    if folders.vectors.exists():
        raise BulkError(f"{folders.vectors.path}: has vectors of another run, whose plan is gone: use another output")
    folders.output.make()
    with folders.output.held(), explained(folders.output.path):
        folders.state.remove()
        for folder in (folders.rows, folders.pieces):
            folder.make()
        staged = _Staged(folders, planned.piece_rows)
        for batch in batches:
            staged.add(batch)
        staged.finish()
        staged.require_unique()
        plan = Plan(planned, tuple(staged.parts))
        document = orjson.dumps({"version": _VERSION, **asdict(plan)}, default=_as_json, option=orjson.OPT_INDENT_2)
        folders.plan.write(lambda stream: stream.write(document))
    return plan


def read_plan(folders: Folders) -> Plan | None:
    """The plan of an output, or None if there is none. Raises `BulkError` for one of another version."""
    if not folders.plan.exists():
        return None
    with explained(folders.plan.path):
        document: dict[str, Any] = orjson.loads(folders.plan.read())
        if document["version"] != _VERSION:
            raise BulkError(f"{folders.plan.path}: was written by another version of this program")
        planned = document["planned"]
        given = planned["input"]
        planned = Planned(
            **{**planned, "input": Input(**{**given, "kind": Kind(given["kind"])}), "model": Model(**planned["model"])}
        )
        return Plan(planned, tuple(document["parts"]))


def read_rows(folders: Folders, part: int, *, groups: Sequence[int] | None = None) -> pa.Table:
    """The rows of a part, or of some of its pieces. Raises `OSError`."""
    place = folders.part_of_rows(part)
    with place.filesystem.open_input_file(place.path) as stream:
        opened = parquet.ParquetFile(stream)
        return opened.read() if groups is None else opened.read_row_groups(groups)


class _Staged:
    """Writes rows as they come, part by part, and remembers their ids: eight bytes of each.

    Ids are whole numbers until one comes that is a string. From then on all are, also those that have been written: as
    text a whole number is what it was in a CSV.
    """

    def __init__(self, folders: Folders, piece_rows: int) -> None:
        self.parts: list[int] = []
        self._folders = folders
        self._piece_rows = piece_rows
        self._part_rows = max(1, PART_ROWS // piece_rows) * piece_rows
        self._unwritten: list[pa.Table] = []
        self._waiting = 0
        self._has_strings = False
        self._hashes: list[npt.NDArray[np.uint64]] = []

    def add(self, batch: pa.Table) -> None:
        if not len(batch):
            # A file without rows says nothing of what ids are.
            return
        if not pa.types.is_integer(batch.schema.field(ID).type):
            self._make_strings()
        given = _with_strings(batch) if self._has_strings else batch
        self._hashes.append(_hashes(given.column(ID)))
        self._unwritten.append(given)
        self._waiting += len(given)
        while self._waiting >= self._part_rows:
            self._write(self._part_rows)

    def _make_strings(self) -> None:
        if self._has_strings:
            return
        self._has_strings = True
        self._unwritten = [_with_strings(batch) for batch in self._unwritten]
        self._hashes = [_hashes(batch.column(ID)) for batch in self._unwritten]
        for part in range(len(self.parts)):
            rows = _with_strings(read_rows(self._folders, part))
            self._hashes.append(_hashes(rows.column(ID)))
            self._write_part(part, rows)

    def finish(self) -> None:
        """Raises `BulkError` when there were none."""
        if self._waiting:
            self._write(self._waiting)
        if not self.parts:
            raise BulkError("the input has no rows")

    def _write(self, rows: int) -> None:
        waiting = pa.concat_tables(self._unwritten)
        self._write_part(len(self.parts), waiting.slice(0, rows))
        self._unwritten, self._waiting = [waiting.slice(rows)], self._waiting - rows
        self.parts.append(rows)

    def _write_part(self, part: int, rows: pa.Table) -> None:
        place = self._folders.part_of_rows(part)
        place.write(lambda stream: parquet.write_table(rows, stream, row_group_size=self._piece_rows))

    def require_unique(self) -> None:
        """Raises `BulkError` that names an id which comes twice, and where."""
        hashes = np.concatenate(self._hashes)
        self._hashes = []
        hashes.sort()
        suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        if not len(suspects):
            return
        # Two ids may have one hash: only the ids themselves tell.
        first_seen: dict[object, int] = {}
        for number, identity in self._ids_among(suspects):
            if identity in first_seen:
                raise BulkError(f"the id {identity!r} comes twice, in rows {first_seen[identity]} and {number}")
            first_seen[identity] = number

    def _ids_among(self, suspects: npt.NDArray[np.uint64]) -> Iterator[tuple[int, object]]:
        first = 0
        for part, rows in enumerate(self.parts):
            ids = read_rows(self._folders, part).column(ID)
            found = np.flatnonzero(np.isin(_hashes(ids), suspects))
            yield from zip((found + first).tolist(), ids.take(found).to_pylist(), strict=True)
            first += rows


def _with_strings(rows: pa.Table) -> pa.Table:
    return rows.set_column(rows.column_names.index(ID), ID, rows.column(ID).cast(pa.string()))


def _hashes(ids: Any) -> npt.NDArray[np.uint64]:  # noqa: ANN401 - pyarrow has no types
    if pa.types.is_integer(ids.type):
        return np.asarray(ids, dtype=np.int64).view(np.uint64)
    hashes: npt.NDArray[np.uint64] = pd.util.hash_array(pc.cast(ids, pa.string()).to_numpy())
    return hashes


def _as_json(value: object) -> object:
    if isinstance(value, Kind):
        return value.value
    raise TypeError
