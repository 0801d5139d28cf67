"""What the rows of a piece name, read from where the plan or the input has it."""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from bulk.errors import BulkError
from bulk.inputs import FILE, GROUP, ID, ROW, SOURCE, Kind
from bulk.outcomes import Reject, Work
from bulk.places import Place, reason
from bulk.plan import Folders, Plan, read_rows
from bulk.row_files import why_not

Source = str | Place | bytes | Reject | None
"""A URL or a text, a file, what is in one, why it cannot be named, or nothing."""

_UNREADABLE = "FILE_UNREADABLE"

# Row groups with images that are kept: pieces that follow each other often lie in the same one.
_KEPT_GROUPS = 2


class Sources:
    """For one thread at a time."""

    def __init__(self, plan: Plan, folders: Folders) -> None:
        self._plan = plan
        self._folders = folders
        self._base = plan.input.place
        self._groups: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()

    def read(self, work: Work) -> list[Source]:
        """In order. Raises `OSError` when the plan or the input cannot be read."""
        rows = self._rows(work)
        kind = self._plan.input.kind
        if kind is Kind.IMAGE_BYTES:
            return self._bytes(rows)
        named: list[str | None] = rows.column(SOURCE).to_pylist()
        if kind is Kind.IMAGE_PATH:
            # An empty path would be the folder that this process is in.
            return [self._place_of(name) if name else None for name in named]
        if kind is Kind.IMAGE_FILE:
            return [None if name is None else self._base.at(name) for name in named]
        return list(named)

    def _place_of(self, path: str) -> Place | Reject:
        """Of a path that a row names: what is wrong with it is that row's."""
        refused = why_not(path, self._plan.input.uri)
        if refused is not None:
            return Reject(_UNREADABLE, refused, retryable=False)
        try:
            return Place.of(path)
        except BulkError as error:
            return Reject(_UNREADABLE, str(error), retryable=True)

    def _rows(self, work: Work) -> pa.Table:
        groups = np.unique(work.positions // self._plan.piece_rows)
        return read_rows(self._folders, work.part, groups=groups.tolist()).take(
            _places(work.positions, groups, self._plan.piece_rows)
        )

    def _bytes(self, rows: pa.Table) -> list[Source]:
        where = zip(*(rows.column(name).to_pylist() for name in (ID, FILE, GROUP, ROW)), strict=True)
        return [self._bytes_of(identity, file, group, row) for identity, file, group, row in where]

    def _bytes_of(self, identity: int | str, file: str, group: int, row: int) -> bytes | None:
        """Raises `BulkError` where another row is now: its image would be this one's, and nobody would see it."""
        table, id_column = self._group(file, group), self._plan.input.id_column
        is_there = row < len(table)
        # As text a whole number is what it is in a plan of strings.
        if not is_there or (id_column is not None and str(table.column(id_column)[row].as_py()) != str(identity)):
            raise BulkError(f"{file}: has other rows than when the run began: use another output")
        content: bytes | None = table.column(self._plan.input.column)[row].as_py()
        return content

    def _group(self, file: str, group: int) -> pa.Table:
        if (file, group) not in self._groups:
            place = self._base.at(file)
            with place.filesystem.open_input_file(place.path) as stream:
                columns = [name for name in (self._plan.input.column, self._plan.input.id_column) if name is not None]
                self._groups[file, group] = parquet.ParquetFile(stream).read_row_group(group, columns)
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[file, group]


def _places(positions: npt.NDArray[np.int32], groups: npt.NDArray[np.int32], piece_rows: int) -> npt.NDArray[np.int64]:
    """Where rows of a part are in a table of some of its row groups, of which all but a part's last are full."""
    before = np.searchsorted(groups, positions // piece_rows) * piece_rows
    return np.asarray(before + positions % piece_rows, np.int64)


def read_file(place: Place, max_bytes: int) -> bytes | Reject:
    """The bytes of an image, or why there are none."""
    try:
        content = None if place.is_no_file else place.read(max_bytes + 1)
    except FileNotFoundError:
        return Reject(_UNREADABLE, "there is no such file", retryable=False)
    except Exception as error:
        # The libraries below fsspec have exceptions of their own, and none of them may take the other rows along.
        return Reject(_UNREADABLE, reason(error), retryable=True)
    return Reject(_UNREADABLE, "is no file", retryable=False) if content is None else content
