"""Plans and outcomes that tests make without a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from bulk.inputs import ID, SOURCE, Input, Kind
from bulk.outcomes import Reject, Work, table_of, vectors_array
from bulk.places import Place
from bulk.plan import Folders, Model, Plan, Planned, write_plan

DIM = 4
MODEL = Model("tiny", "2:aaaa", DIM, 2)
LATER = Reject("DOWNLOAD_ERROR", "503", retryable=True)
NEVER = Reject("INVALID_IMAGE", "no image", retryable=False)


def planned(folder: Path | str, kind: Kind = Kind.TEXT, *, piece_rows: int = 3, dtype: str = "float32") -> Planned:
    return Planned(Input(str(folder), kind, "text", None), MODEL, dtype, "parquet", piece_rows)


def rows_table(ids: Sequence[int | str]) -> pa.Table:
    return pa.table({ID: list(ids), SOURCE: [f"text {identity}" for identity in ids]})


def plan_of(output: Path, ids: Sequence[int | str], *, piece_rows: int = 3) -> tuple[Plan, Folders]:
    folders = Folders(Place.of(str(output)))
    return write_plan(folders, planned("unread", piece_rows=piece_rows), [rows_table(ids)]), folders


def vector(position: int) -> list[float]:
    return [float(position)] * DIM


def outcomes(work: Work, rejects: Sequence[Reject | None]) -> pa.Table:
    vectors = np.asarray([vector(int(position)) for position in work.positions], np.float32)
    return table_of(work, rejects, vectors_array(vectors, pa.float32()))
