"""Rows of CSV and JSON lines as text, some columns of them, in tables of about a megabyte of the file.

By Python's readers: pyarrow's give each column the type that it has in a file's first block, also columns that nobody
wants, take no row that is larger than a block, and hold up to 32 blocks. Knows nothing of what the columns are for.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Generic, TypeVar

import orjson
import pyarrow as pa

# Of a line, and of a value of several lines. An image of the size that the service takes by default has 14 million in
# base64.
MAX_ROW_CHARACTERS = 67_108_864

_TABLE_CHARACTERS = 1_048_576
_BUFFER_BYTES = 1_048_576
_WHOLE_NUMBERS = range(-(2**63), 2**63)

# What a line of JSON has where it should have something else.
_KINDS = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list"}

Row = Sequence[str | int | None]
Line = TypeVar("Line", str, bytes)
File = io.RawIOBase | io.BytesIO
"""As is pyarrow's `NativeFile`, which has no types."""


class TableError(ValueError):
    """What is wrong with a file, or with a line of it."""


class _Lines(Generic[Line]):
    """The lines of a file, each with its end; `number` and `characters` count what has been taken of them."""

    def __init__(self, readline: Callable[[int], Line]) -> None:
        self.number = 0
        self.characters = 0
        self._readline: Callable[[int], Line] = readline

    def __iter__(self) -> Iterator[Line]:
        """Raises `TableError` for one that is too long."""
        while line := self._readline(MAX_ROW_CHARACTERS + 1):
            self.number += 1
            if len(line) > MAX_ROW_CHARACTERS:
                raise TableError(f"line {self.number}: has more than {MAX_ROW_CHARACTERS:,} characters")
            self.characters += len(line)
            yield line


def require_columns(columns: Iterable[str], names: Sequence[str]) -> None:
    """Raises `TableError` unless each of `columns` is one of `names`."""
    for name in columns:
        if name not in names:
            raise TableError(f"has no column {name}; it has {', '.join(names) or 'none'}")
        if names.count(name) > 1:
            raise TableError(f"has more than one column {name}")


def csv_tables(stream: File, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield all rows, in which `columns` are strings. Raises `TableError`."""
    # Not all columns need be in UTF-8: those that are wanted are looked at.
    text = io.TextIOWrapper(io.BufferedReader(stream, _BUFFER_BYTES), "utf-8-sig", errors="surrogateescape", newline="")
    lines = _Lines(text.readline)
    yield from _tables(_csv_rows(lines, columns), columns, lines)


def _csv_rows(lines: _Lines[str], columns: Sequence[str]) -> Iterator[Row]:
    # For all of this process: there is no other place for it.
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    # Strict: a quote that is never closed would swallow rows without a word.
    reader = csv.reader(lines, strict=True)
    before = 0
    try:
        header = next((row for row in reader if row), [])
        require_columns(columns, header)
        places = [header.index(name) for name in columns]
        before = lines.number
        for row in reader:
            if len(row) == len(header):
                yield [_in_utf8(row[place], header[place], lines.number) for place in places]
            elif row:
                raise TableError(f"line {lines.number}: has {len(row)} values for {len(header)} columns")
            before = lines.number
    except csv.Error as error:
        # Where it begins: a quote that is not closed ends with the file.
        raise TableError(f"line {before + 1}: {error}") from error


def json_tables(stream: File, text: str, id_column: str | None) -> Iterator[pa.Table]:
    """Yield all rows, in which `text` has strings or nulls, and `id_column` has one of strings and int64, or nulls.

    Raises `TableError`.
    """
    columns = list(dict.fromkeys(name for name in (id_column, text) if name is not None))
    lines = _Lines(io.BufferedReader(stream, _BUFFER_BYTES).readline)
    yield from _tables(_json_rows(lines, text, columns), columns, lines)


def _json_rows(lines: _Lines[bytes], text: str, columns: Sequence[str]) -> Iterator[Row]:
    """Where a record has no text, it is null; that none has one is a mistake."""
    names: list[str] | None = None
    found = False
    for line in lines:
        if line.isspace():
            continue
        record = _object(line, lines.number)
        names = list(record) if names is None else names
        found = found or text in record
        yield [_value(record, name, lines.number, is_text=name == text) for name in columns]
    if names is not None and not found:
        require_columns([text], names)


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        record = _parsed(line)
    except (ValueError, RecursionError) as error:
        raise TableError(f"line {number}: {getattr(error, 'msg', error)}") from error
    if not isinstance(record, dict):
        raise TableError(f"line {number}: is no JSON object")
    return record


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # A third as fast, and takes what is often found in columns that nobody wants: NaN, half a surrogate pair.
        return json.loads(line.decode("utf-8-sig", "surrogateescape"))


def _value(record: dict[str, Any], name: str, number: int, *, is_text: bool) -> str | int | None:
    if not is_text and name not in record:
        raise TableError(f"line {number}: has no column {name}; it has {', '.join(record) or 'none'}")
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return _in_utf8(value, name, number)
    # True is an `int` to Python.
    if not is_text and type(value) is int and value in _WHOLE_NUMBERS:
        return value
    wanted = "text" if is_text else "a whole number of 64 bits or text"
    raise TableError(f"line {number}: column {name} has {_KINDS[type(value)]}, not {wanted}")


def _in_utf8(value: str, name: str, number: int) -> str:
    """Bytes of another encoding, and half a surrogate pair, are what no UTF-8 has."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise TableError(f"line {number}: column {name} is not in UTF-8") from error
    return value


def _tables(rows: Iterable[Row], columns: Sequence[str], lines: _Lines[Any]) -> Iterator[pa.Table]:
    # By column: Python's collector would go through rows that are kept, again and again.
    taken: dict[str, list[str | int | None]] = {name: [] for name in columns}
    begin = 0
    for row in rows:
        for values, value in zip(taken.values(), row, strict=True):
            values.append(value)
        if lines.characters - begin >= _TABLE_CHARACTERS:
            yield _table(taken)
            taken, begin = {name: [] for name in columns}, lines.characters
    if taken[columns[0]]:
        yield _table(taken)


def _table(taken: Mapping[str, Sequence[str | int | None]]) -> pa.Table:
    return pa.table({name: _array(values) for name, values in taken.items()})


def _array(values: Sequence[str | int | None]) -> pa.Array:
    kinds = set(map(type, values)) - {NoneType}
    if kinds == {int}:
        return pa.array(values, pa.int64())
    texts = [value if value is None else str(value) for value in values] if int in kinds else values
    return pa.array(texts, pa.string())
