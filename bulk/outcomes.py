"""What became of the rows of a piece, as a table: a vector, or why there is none. The one form between the stages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

PART, PIECE, POSITION = "part", "piece", "position"
CODE, MESSAGE, RETRYABLE, VECTOR = "code", "message", "retryable", "vector"

_SCHEMA = [
    (PART, pa.int32()),
    (PIECE, pa.int32()),
    (POSITION, pa.int32()),
    (CODE, pa.string()),
    (MESSAGE, pa.string()),
    (RETRYABLE, pa.bool_()),
]


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a row has no vector; `retryable` says that it could have one later."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Work:
    """A piece that is to be done: rows of one part, by their `positions` in it."""

    part: int
    piece: int
    positions: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.positions)


def table_of(work: Work, rejects: Sequence[Reject | None], vectors: pa.Array) -> pa.Table:
    """Of all rows of `work`, in order; where there is a reject, the vector is of no meaning."""
    n = len(work)
    columns = [
        pa.array(np.full(n, work.part, np.int32)),
        pa.array(np.full(n, work.piece, np.int32)),
        pa.array(work.positions),
        pa.array([reject and reject.code for reject in rejects], pa.string()),
        pa.array([reject and reject.message for reject in rejects], pa.string()),
        pa.array([reject and reject.retryable for reject in rejects], pa.bool_()),
        vectors,
    ]
    return pa.table(columns, names=[*(name for name, _ in _SCHEMA), VECTOR])


def work_of(table: pa.Table) -> Work:
    """Whose outcomes they are."""
    return Work(table.column(PART)[0].as_py(), table.column(PIECE)[0].as_py(), table.column(POSITION).to_numpy())


def rejects_of(table: pa.Table) -> list[Reject | None]:
    """In order; None for a row that has what it should."""
    columns = (table.column(name).to_pylist() for name in (CODE, MESSAGE, RETRYABLE))
    return [None if code is None else Reject(code, *rest) for code, *rest in zip(*columns, strict=True)]


def as_row(table: pa.Table) -> pa.Table:
    """All of a table of `table_of` in one row of lists: what Ray gives to one call is counted in rows."""
    whole = pa.array([0, len(table)], pa.int64())
    # Its one chunk as it is: `combine_chunks` copies, and the pixels of a piece are 77 MB.
    columns = [pa.LargeListArray.from_arrays(whole, column.chunk(0)) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def of_row(row: pa.Table) -> pa.Table:
    """What was put in it."""
    return pa.table({name: row.column(name)[0].values for name in row.column_names})


def vectors_array(vectors: npt.NDArray[np.floating], numbers: pa.DataType) -> pa.Array:
    """(n, dim) as fixed-size lists of `numbers`."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1)).cast(numbers)
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
