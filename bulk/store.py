"""Pieces and parts of an output: each is written whole or not at all, and again without harm.

A part is complete when its file of rejects is there, which is written last. Where a row has a vector, a reject of it
counts no more: so it does not matter where between the two files a run ended.
"""

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from bulk.errors import BulkError
from bulk.inputs import ID
from bulk.outcomes import CODE, MESSAGE, PIECE, POSITION, RETRYABLE, VECTOR, Work
from bulk.places import Place, explained
from bulk.plan import Folders, Plan, part_name, read_rows

FINGERPRINT = "fingerprint"

# Of row groups in vectors: some megabytes, which a reader can take one by one.
_GROUP_ROWS = 8192

_PIECE = re.compile(r"part-(\d+)-(\d+)\.parquet")
DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True, slots=True)
class PartCounts:
    """Of a complete part."""

    part: int
    vectors: int
    rejects: int


class Store:
    """The files of one output, under its plan. Pickles: any machine of a cluster writes pieces and parts."""

    def __init__(self, plan: Plan, folders: Folders) -> None:
        self.plan = plan
        self.folders = folders

    def make(self) -> None:
        """Make the folders, and tidy them after a run that died. Raises `BulkError`."""
        for folder in (self.vectors, self.rejects, self.folders.pieces):
            folder.make()
            with explained(folder.path):
                folder.remove_unfinished()

    @property
    def vectors(self) -> Place:
        return self.folders.vectors

    @property
    def rejects(self) -> Place:
        return self.folders.rejects

    def write_piece(self, work: Work, outcomes: pa.Table) -> None:
        """Raises `OSError`."""
        place = self.folders.pieces / f"part-{work.part:05d}-{work.piece:05d}.parquet"
        numbers = pa.list_(DTYPES[self.plan.dtype], self.plan.model.dim)
        index = outcomes.column_names.index(VECTOR)
        kept = outcomes.set_column(index, VECTOR, outcomes.column(VECTOR).cast(numbers))
        place.write(lambda stream: parquet.write_table(self._marked(kept), stream))

    def pieces_there(self) -> dict[int, dict[int, Place]]:
        """The pieces that are in no part yet, by part and number, whole or not. Raises `BulkError`."""
        there: dict[int, dict[int, Place]] = {}
        for path in self.folders.pieces.files():
            match = _PIECE.fullmatch(path.rpartition("/")[2])
            if match is not None:
                there.setdefault(int(match[1]), {})[int(match[2])] = self.folders.pieces.at(path)
        return there

    def is_whole(self, piece: Place) -> bool:
        """Whether it is of this plan and can be read: what a full disk or a dead machine left is not."""
        try:
            self._rows_in(piece)
        except BulkError:
            return False
        return True

    def complete_parts(self) -> dict[int, PartCounts]:
        """Raises `BulkError` for a file that is none of this plan's."""
        return {part: self.counts(part) for part in self._parts_there()}

    def merge_leftovers(self) -> None:
        """Pieces beside a complete part belong into it: a run was killed before or while it put them there, and its
        files are right again only then. Raises `BulkError`.
        """
        for part in self.pieces_there().keys() & set(self._parts_there()):
            self.merge(part)

    def _parts_there(self) -> list[int]:
        rejects = {path.rpartition("/")[2] for path in self.rejects.files()}
        return [part for part in range(len(self.plan.parts)) if part_name(part) in rejects]

    def counts(self, part: int) -> PartCounts:
        """Of a complete part, by its files' own numbers. Raises `BulkError` unless all its rows are in them, once."""
        vectors, rejects = (self._rows_in(place / part_name(part)) for place in (self.vectors, self.rejects))
        if vectors + rejects != self.plan.parts[part]:
            name = part_name(part)
            raise BulkError(f"{name}: {vectors} vectors and {rejects} rejects of {self.plan.parts[part]} rows")
        return PartCounts(part, vectors, rejects)

    def merge(self, part: int) -> PartCounts:
        """Make the part of its pieces and of what there is of it, and remove the pieces. Raises `BulkError`."""
        pieces = [piece for _, piece in sorted(self.pieces_there().get(part, {}).items())]
        with explained(self.folders.part_of_rows(part).path):
            ids = read_rows(self.folders, part).column(ID).combine_chunks()
        known = [self._part_as_outcomes(part, ids), *(_read(piece) for piece in pieces if self.is_whole(piece))]
        known = [table for table in known if table is not None]
        if not known:
            raise BulkError(f"{part_name(part)}: none of its pieces can be read")
        outcomes = pa.concat_tables(known)
        rows = _one_for_each(outcomes, len(ids), part)
        with explained(part_name(part)):
            self._write_part(part, ids, rows)
        self._require_closed(part, ids)
        for piece in pieces:
            piece.remove()
        return self.counts(part)

    def retryable(self, part: int) -> list[int]:
        """The positions of rows that could have a vector now. Raises `BulkError`."""
        rejects = _read(self.rejects / part_name(part))
        positions: list[int] = rejects.filter(rejects.column(RETRYABLE)).column(POSITION).to_pylist()
        return positions

    def reject_codes(self) -> Counter[str]:
        """How many rows were rejected for what. Raises `BulkError`."""
        codes: Counter[str] = Counter()
        for part in range(len(self.plan.parts)):
            codes.update(_read(self.rejects / part_name(part)).column(CODE).to_pylist())
        return codes

    def _require_closed(self, part: int, ids: pa.Array) -> None:
        """Raises `BulkError` unless each id of the plan is in one of the two files, once, as they are read back."""
        written = [_read(place / part_name(part)).column(ID) for place in (self.vectors, self.rejects)]
        positions = pc.index_in(pa.chunked_array(chunk for column in written for chunk in column.chunks), value_set=ids)
        if not np.array_equal(np.sort(positions.to_numpy()), np.arange(len(ids))):
            raise BulkError(f"{part_name(part)}: its files have not each row once")

    def _write_part(self, part: int, ids: pa.Array, rows: pa.Table) -> None:
        """`rows` is one outcome for each of `ids`. Vectors first: see above."""
        named = rows.append_column(ID, ids)
        has_vector = pc.is_null(rows.column(CODE))
        found, refused = named.filter(has_vector), named.filter(pc.invert(has_vector))
        fingerprints = pa.array([self.plan.model.fingerprint] * len(found), pa.string())
        self._write(self.vectors / part_name(part), found.select([ID, VECTOR]).append_column(FINGERPRINT, fingerprints))
        self._write(self.rejects / part_name(part), refused.select([ID, POSITION, CODE, MESSAGE, RETRYABLE]))

    def _write(self, place: Place, table: pa.Table) -> None:
        marked = self._marked(table)
        place.write(lambda stream: parquet.write_table(marked, stream, row_group_size=_GROUP_ROWS))

    def _part_as_outcomes(self, part: int, ids: pa.Array) -> pa.Table | None:
        """What earlier runs have made of it; None if it has not been made."""
        if not (self.vectors / part_name(part)).exists():
            return None
        vectors = _read(self.vectors / part_name(part))
        n = len(vectors)
        tables = [
            pa.table(
                {
                    POSITION: pc.index_in(vectors.column(ID), value_set=ids).cast(pa.int32()),
                    CODE: pa.nulls(n, pa.string()),
                    MESSAGE: pa.nulls(n, pa.string()),
                    RETRYABLE: pa.nulls(n, pa.bool_()),
                    VECTOR: vectors.column(VECTOR),
                }
            )
        ]
        if (self.rejects / part_name(part)).exists():
            rejects = _read(self.rejects / part_name(part)).drop_columns([ID])
            tables.append(rejects.append_column(VECTOR, pa.nulls(len(rejects), vectors.schema.field(VECTOR).type)))
        return pa.concat_tables(tables)

    def _rows_in(self, place: Place) -> int:
        with explained(place.path), place.filesystem.open_input_file(place.path) as stream:
            opened = parquet.ParquetFile(stream)
            if not self._is_ours(opened.schema_arrow):
                raise BulkError(f"{place.path}: is of another model than this run's")
            rows: int = opened.metadata.num_rows
            return rows

    def _marked(self, table: pa.Table) -> pa.Table:
        model = self.plan.model
        description = orjson.dumps({"model": model.name, "dim": model.dim, "normalized": True})
        return table.replace_schema_metadata({FINGERPRINT: model.fingerprint.encode(), "clip": description})

    def _is_ours(self, schema: pa.Schema) -> bool:
        marks = schema.metadata or {}
        return bool(marks.get(FINGERPRINT.encode()) == self.plan.model.fingerprint.encode())


def _read(place: Place) -> pa.Table:
    with explained(place.path), place.filesystem.open_input_file(place.path) as stream:
        table = parquet.ParquetFile(stream).read()
    return table.drop_columns([name for name in ("part", PIECE, FINGERPRINT) if name in table.column_names])


def _one_for_each(outcomes: pa.Table, rows: int, part: int) -> pa.Table:
    """Of all that is known of each row the vector, or else the newest reject; in order. Raises `BulkError`."""
    positions = outcomes.column(POSITION).to_numpy()
    has_vector = pc.is_null(outcomes.column(CODE)).to_numpy()
    # The last of a position wins: newest last, and vectors behind all rejects.
    order = np.lexsort((np.arange(len(positions)), has_vector, positions))
    in_order = positions[order]
    last = np.flatnonzero(np.append(in_order[1:] != in_order[:-1], True))
    if len(last) != rows:
        raise BulkError(f"{part_name(part)}: there are outcomes for {len(last)} of its {rows} rows")
    return outcomes.take(order[last])
