"""What is to be embedded, as it lies: Parquet, CSV, JSON lines or image files, to ids and sources. Asks no service."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from bulk.errors import BulkError
from bulk.lines import TableError, csv_tables, json_tables, require_columns
from bulk.places import Place, explained, is_uri, require_no_key, stem

ID, SOURCE = "id", "source"
# Where the bytes of an image lie in the input: they are read from there, not copied.
FILE, GROUP, ROW = "file", "group", "row"

_PARQUET = (".parquet", ".pq")
_CSV = (".csv",)
_JSON_LINES = (".jsonl", ".ndjson")
# What the service decodes.
_IMAGES = (".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
_SUFFIXES = (*_PARQUET, *_CSV, *_JSON_LINES)

_GLOB, _ANY_DEPTH = frozenset("*?["), "**"
_BATCH_ROWS = 65_536
_SAMPLED_FILES = 8


class Kind(Enum):
    """What a row gives."""

    IMAGE_URL = "image-url"
    IMAGE_PATH = "image-path"
    IMAGE_BYTES = "image-bytes"
    TEXT = "text"
    IMAGE_FILE = "image-file"
    """The rows are the image files themselves."""

    @property
    def is_image(self) -> bool:
        return self is not Kind.TEXT


_SUFFIXES_OF = {Kind.IMAGE_FILE: _IMAGES, Kind.IMAGE_BYTES: _PARQUET}
_STRING_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES_TYPES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


@dataclass(frozen=True, slots=True)
class Input:
    """The files at `uri`: one, all of a folder, or those that a pattern fits; `column` has what is to be embedded.

    Without an `id_column` a row's id is its number, from 0; that of an image file is its path below `uri`.
    """

    uri: str
    kind: Kind
    column: str | None
    id_column: str | None

    def __post_init__(self) -> None:
        """Raises `BulkError` for a URI with a key in it: the plan keeps the URI, and messages name it."""
        require_no_key(self.uri)

    def files(self) -> list[Place]:
        """Sorted by path. Raises `BulkError` when there are none."""
        suffixes = _SUFFIXES_OF.get(self.kind, _SUFFIXES)
        _, pattern = self._base()
        whole = self.place
        below = whole.files(recursive=True)
        if below == [whole.path]:
            return [whole]
        inside = len(whole.path.rstrip("/")) + 1
        found = [path for path in below if pattern is None or _fits(path[inside:].split("/"), pattern)]
        usable = [whole.at(path) for path in found if stem(path).lower().endswith(suffixes)]
        if not usable:
            raise BulkError(f"{self.uri}: there are no files there that end in {', '.join(suffixes)}")
        return usable

    @property
    def place(self) -> Place:
        """The file, or the folder below which all files are."""
        return Place.of(self._base()[0])

    def _base(self) -> tuple[str, Sequence[str] | None]:
        """The folder above the first name with a wildcard, and the names of the pattern below it."""
        # In a URI a question mark begins its query, which says how to come to a filesystem.
        path, mark, query = self.uri.partition("?") if is_uri(self.uri) else (self.uri, "", "")
        parts = path.split("/")
        wild = next((index for index, part in enumerate(parts) if _GLOB & set(part)), None)
        if wild is None:
            return self.uri, None
        above = "/".join(parts[:wild]) or ("/" if path.startswith("/") else ".")
        return above + mark + query, parts[wild:]

    def batches(self) -> Iterator[pa.Table]:
        """Yield all rows in order: `id`, of int64 or string in each table, and `source`, a string or null; or, for
        bytes, where they lie. Raises `BulkError` for what cannot be read, naming the file.
        """
        files = self.files()
        if self.kind is Kind.IMAGE_FILE:
            # As many at once as of a table: each alone would cost more than its row.
            yield from (self._of_images(files[at : at + _BATCH_ROWS]) for at in range(0, len(files), _BATCH_ROWS))
            return
        number = 0
        for file in files:
            with explained(file.path):
                for batch in self._of_file(file):
                    ids = _ids(batch.column(ID), file) if ID in batch.column_names else self._numbers(batch, number)
                    number += len(batch)
                    rest = [name for name in batch.column_names if name != ID]
                    yield pa.table({ID: ids, **{name: batch.column(name) for name in rest}})

    def count(self) -> int:
        """How many rows there are: from the files' own numbers where they have them. Raises `BulkError`."""
        files = self.files()
        if self.kind is Kind.IMAGE_FILE:
            return len(files)
        return sum(self._count_of(file) for file in files)

    def _count_of(self, file: Place) -> int:
        with explained(file.path):
            if not stem(file.path).lower().endswith(_PARQUET):
                return sum(len(batch) for batch in self._of_file(file))
            with file.filesystem.open_input_file(file.path) as stream:
                rows: int = parquet.ParquetFile(stream).metadata.num_rows
                return rows

    def sample(self, rows: int) -> Iterator[pa.Table]:
        """Yield about so many rows: the first ones of some files that lie apart. Their ids are numbers."""
        files = self.files()
        apart = min(len(files), rows if self.kind is Kind.IMAGE_FILE else _SAMPLED_FILES)
        number = 0
        for file in (files[number * len(files) // apart] for number in range(apart)):
            left = max(1, -(-rows // apart))
            with explained(file.path):
                for batch in self._of_file(file):
                    taken = batch.slice(0, left)
                    taken = taken.drop_columns([ID]) if ID in taken.column_names else taken
                    yield taken.add_column(0, ID, self._numbers(taken, number))
                    number, left = number + len(taken), left - len(taken)
                    if left == 0:
                        break

    def _of_file(self, file: Place) -> Iterator[pa.Table]:
        if self.kind is Kind.IMAGE_FILE:
            yield self._of_images([file])
            return
        name = stem(file.path).lower()
        if name.endswith(_PARQUET):
            yield from self._of_parquet(file)
        elif self.kind is Kind.IMAGE_BYTES or not name.endswith(_SUFFIXES):
            raise BulkError(f"{file.path}: must be a file of {', '.join(_SUFFIXES)} (a column of bytes: Parquet)")
        else:
            yield from self._of_lines(file, is_csv=name.endswith(_CSV))

    def _of_images(self, files: Sequence[Place]) -> pa.Table:
        """Each by its name below the folder; one alone by its own."""
        base = PurePosixPath(self.place.path)
        paths = [PurePosixPath(file.path) for file in files]
        names = [path.name if path == base else str(path.relative_to(base)) for path in paths]
        return pa.table({ID: pa.array(names, pa.string()), SOURCE: [file.path for file in files]})

    def _of_parquet(self, file: Place) -> Iterator[pa.Table]:
        with file.filesystem.open_input_file(file.path) as stream:
            opened = parquet.ParquetFile(stream)
            require_columns(self._columns, opened.schema_arrow.names)
            if self.kind is Kind.IMAGE_BYTES:
                yield from self._places_of_bytes(opened, file)
                return
            first = 0
            for batch in opened.iter_batches(_BATCH_ROWS, columns=self._columns):
                plain = {name: _plain(batch.column(name), name, first) for name in self._columns}
                yield self._renamed(pa.table(plain), file)
                first += len(batch)

    def _places_of_bytes(self, opened: parquet.ParquetFile, file: Place) -> Iterator[pa.Table]:
        column = opened.schema_arrow.field(self.column)
        if not _is_any(_BYTES_TYPES, column.type):
            raise BulkError(f"{file.path}: column {self.column} is {column.type}, not bytes")
        first = 0
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            ids = {}
            if self.id_column is not None:
                ids[ID] = _plain(opened.read_row_group(group, [self.id_column]).column(0), self.id_column, first)
            first += rows
            # By its path: a number would be another file's once the folder has one more.
            places = {
                FILE: pa.array([file.path] * rows, pa.string()),
                GROUP: pa.array([group] * rows, pa.int32()),
                ROW: pa.array(range(rows), pa.int32()),
            }
            yield pa.table({**ids, **places})

    def _of_lines(self, file: Place, *, is_csv: bool) -> Iterator[pa.Table]:
        columns = self._columns
        with file.filesystem.open_input_stream(file.path) as stream:
            tables = csv_tables(stream, columns) if is_csv else json_tables(stream, columns[-1], self.id_column)
            for table in tables:
                renamed = self._renamed(table, file)
                if is_csv and self.id_column is not None:
                    renamed = renamed.set_column(0, ID, _numbers_or_text(renamed.column(ID)))
                yield renamed

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.id_column, self.column) if name is not None))

    def _renamed(self, table: pa.Table, file: Place) -> pa.Table:
        source = table.column(self._columns[-1])
        # A column without any value has no other type.
        if not pa.types.is_string(source.type) and not pa.types.is_null(source.type):
            raise BulkError(f"{file.path}: column {self.column} is {source.type}, not text")
        columns = {SOURCE: source.cast(pa.string())}
        return pa.table(columns if self.id_column is None else {ID: table.column(self.id_column), **columns})

    def _numbers(self, batch: pa.Table, first: int) -> pa.Array:
        return pa.array(range(first, first + len(batch)), pa.int64())


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Name by name, as in a shell: a wildcard takes no slash and no dot in front, and `**` any number of folders."""
    if not pattern:
        return not path
    first, rest = pattern[0], pattern[1:]
    if first == _ANY_DEPTH and _fits(path, rest):
        return True
    if not path or (path[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatchcase(path[0], first) and _fits(path[1:], pattern if first == _ANY_DEPTH else rest)


def _is_any(kinds: Sequence[Callable[[pa.DataType], bool]], of: pa.DataType) -> bool:
    return any(is_kind(of) for is_kind in kinds)


def _plain(column: Any, name: str, first: int) -> Any:  # noqa: ANN401 - pyarrow has no types
    """A column of Parquet by its values: not by numbers of a dictionary, as pandas' categories are, and strings all of
    one type. Raises `TableError` for one that is not in UTF-8, which no reader before has looked at: whoever takes it
    as text would fail in the middle of the run. `first` is the number of the first row in the file, from 0.
    """
    values = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if not _is_any(_STRING_TYPES, values.type):
        return values
    strings = values.cast(pa.string())
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid as error:
        numbered = enumerate(strings.cast(pa.binary()).to_pylist(), first)
        row = next(row for row, value in numbered if value and value.decode(errors="replace").encode() != value)
        raise TableError(f"row {row}: column {name} is not in UTF-8") from error
    return strings


def _numbers_or_text(column: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Ids of a CSV, which has text alone: whole numbers if each is written as one is, and otherwise what is written.

    What the others of the input are is not known here; whoever has all of them can make text of these again.
    """
    text = pc.if_else(pc.equal(column, ""), None, column)
    try:
        numbers = pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        return text
    return numbers if pc.all(pc.equal(pc.cast(numbers, pa.string()), text)).as_py() else text


def _ids(column: Any, file: Place) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Of one of the two types; none may be missing."""
    if column.null_count:
        raise BulkError(f"{file.path}: {column.null_count} rows have no id")
    if pa.types.is_integer(column.type):
        return pc.cast(column, pa.int64())
    if pa.types.is_string(column.type):
        return column
    raise BulkError(f"{file.path}: ids are {column.type}; they must be whole numbers or strings")
