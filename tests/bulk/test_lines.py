"""Rows of CSV and JSON lines: what nobody asked for changes nothing, and a file's size is nothing to memory."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import csv as arrow

from bulk.lines import MAX_ROW_CHARACTERS, TableError, csv_tables, json_tables

MANY = 30_000


def of_csv(content: bytes, columns: Sequence[str] = ("key", "url")) -> list[dict[str, Any]]:
    return [row for table in csv_tables(io.BytesIO(content), columns) for row in table.to_pylist()]


def of_json(content: bytes, text: str = "url", id_column: str | None = "key") -> list[dict[str, Any]]:
    return [row for table in json_tables(io.BytesIO(content), text, id_column) for row in table.to_pylist()]


def csv_of(records: Iterable[dict[str, Any]]) -> bytes:
    records, written = list(records), io.StringIO()
    table = csv.DictWriter(written, list(records[0]))
    table.writeheader()
    table.writerows(records)
    return written.getvalue().encode()


def json_of(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def rows_of(number: int) -> dict[str, Any]:
    return {"key": f"k{number}", "url": f"http://images.example/{number}.jpg"}


@pytest.mark.parametrize(
    ("others", "last"),
    [
        pytest.param({"price": 10}, {"price": 10.5}, id="whole numbers, then one that is not"),
        pytest.param({"score": 1}, {"score": 0.5}, id="a fraction"),
        pytest.param({"caption": None}, {"caption": "late"}, id="nothing, then text"),
        pytest.param({"tag": "2020-01-01"}, {"tag": "a"}, id="dates, then text"),
        pytest.param({"size": 1}, {"size": "large"}, id="numbers, then text"),
    ],
)
@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_other_columns_may_hold_anything(others: dict[str, Any], last: dict[str, Any], end: str) -> None:
    """However late it is seen that a column is another than it looked like."""
    records = [rows_of(number) | (others if number < MANY - 1 else last) for number in range(MANY)]
    found = of_csv(csv_of(records)) if end == "csv" else of_json(json_of(records))

    assert [rows_of(number) for number in range(MANY)] == found


@pytest.mark.parametrize("late", [pytest.param({}, id="missing"), pytest.param({"url": None}, id="null")])
def test_column_that_begins_late(late: dict[str, Any]) -> None:
    """Rows without it keep their place, as do columns that are in a few records alone."""
    records = [{"key": f"k{number}", "other": "o" * 40} | late for number in range(MANY)]
    found = of_json(json_of([*records, rows_of(MANY) | {"caption": "late"}]))

    assert [{"key": f"k{number}", "url": None} for number in range(MANY)] == found[:-1]
    assert rows_of(MANY) == found[-1]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(b'NaN, "b": -Infinity', id="no numbers"),
        pytest.param(b'"\\ud800"', id="half a pair"),
        pytest.param(b'"\xff"', id="no UTF-8"),
        pytest.param(b"1e999", id="large"),
        pytest.param(b'[{"c": null}, []]', id="lists"),
    ],
)
def test_other_fields_of_an_object(other: bytes) -> None:
    """What Python's own writer makes, and what else is of no concern to this table."""
    assert [rows_of(1)] == of_json(b'\xef\xbb\xbf{"other": ' + other + b", " + json_of([rows_of(1)])[1:])


def test_csv_in_another_encoding() -> None:
    """Only what is asked for must be UTF-8."""
    assert [rows_of(1)] == of_csv(b"\xef\xbb\xbfkey,n\xe4me,url\nk1,\xe4,http://images.example/1.jpg\n")
    with pytest.raises(TableError, match=r"^line 2: column url is not in UTF-8$"):
        of_csv(b"key,url\nk1,\xe4\n")


@pytest.mark.parametrize("column", ["url", "other"])
@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_large_row(column: str, end: str) -> None:
    """As large as an image in base64, wherever it lies; the limit is said."""
    large = rows_of(1) | {"other": ""} | {column: "x" * 30_000_000}
    records = [rows_of(0) | {"other": ""}, large, rows_of(2) | {"other": ""}]
    found = of_csv(csv_of(records)) if end == "csv" else of_json(json_of(records))

    assert [record["url"] for record in records] == [row["url"] for row in found]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(b"key,url\nk1,a\nk2," + b"x" * MAX_ROW_CHARACTERS, 3, id="line"),
        pytest.param(b'key,url\nk1,a\nk2,"' + (b"x" * 1_000_000 + b"\n") * 68 + b'"\n', 0, id="value"),
        pytest.param(b'{"key": 1}\n{"key": 2, "url": "' + b"x" * MAX_ROW_CHARACTERS, 2, id="object"),
    ],
)
def test_row_that_is_too_large(content: bytes, line: int) -> None:
    """It is refused before it fills the memory."""
    with pytest.raises(TableError, match=r"^line \d+: .*67[,]?108[,]?864") as caught:
        of_json(content) if content.startswith(b"{") else of_csv(content)

    assert not line or str(caught.value).startswith(f"line {line}: ")


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_file_is_read_as_it_is_needed(end: str) -> None:
    """Its rows are in memory by the megabyte."""
    records = [rows_of(number) | {"other": "x" * 1000} for number in range(MANY)]
    stream = io.BytesIO(csv_of(records) if end == "csv" else json_of(records))
    tables = csv_tables(stream, ["key", "url"]) if end == "csv" else json_tables(stream, "url", "key")
    first = next(tables)

    assert 500 < len(first) < 2000
    assert stream.tell() < 5_000_000
    assert MANY == len(first) + sum(len(table) for table in tables)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b'{"key": 1, "url": 1}', "line 1: column url has a number, not text", id="number"),
        pytest.param(b'\n{"key": 1, "url": 1.5}', "line 2: column url has a number, not text", id="fraction"),
        pytest.param(b'{"key": 1, "url": true}', "line 1: column url has true or false, not text", id="boolean"),
        pytest.param(b'{"key": 1, "url": {"a": 1}}', "line 1: column url has an object, not text", id="object"),
        pytest.param(b'{"key": 1, "url": ["a"]}', "line 1: column url has a list, not text", id="list"),
        pytest.param(b'{"key": 1.0, "url": "a"}', "line 1: column key has a number, not a whole number", id="float id"),
        pytest.param(
            b'{"key": true, "url": "a"}', "line 1: column key has true or false, not a whole", id="boolean id"
        ),
        pytest.param(b'{"key": [], "url": "a"}', "line 1: column key has a list, not a whole number", id="list id"),
        pytest.param(
            b'{"key": 9223372036854775808, "url": "a"}',
            "line 1: column key has a number, not a whole number",
            id="huge id",
        ),
        pytest.param(
            b'{"key": 1' + b"0" * 5000 + b', "url": "a"}',
            "line 1: Exceeds the limit",
            id="endless id",
        ),
        pytest.param(
            b'{"key": "a", "url": "a"}\n{"key": "\\ud800", "url": "a"}',
            "line 2: column key is not in UTF-8",
            id="half a pair",
        ),
        pytest.param(b"[1]", "line 1: is no JSON object", id="no object"),
        pytest.param(b'{"key": 1, "url": "a"} {}', "line 1: Extra data", id="two"),
        pytest.param(b'{"key": 1,', "line 1: ", id="cut"),
        pytest.param(b"[" * 100_000, "line 1: ", id="deep"),
        pytest.param(b'{"url": "a", "b": 1}', "line 1: has no column key; it has url, b", id="no id"),
        pytest.param(b'{"key": 1, "b": 1}\n{"key": 2}', "has no column url; it has key, b", id="no text"),
        pytest.param(b'{"key": 1}', "has no column url; it has key", id="no text in one"),
    ],
)
def test_json_of_no_use(content: bytes, message: str) -> None:
    """The line, and what is wrong with it, in one line."""
    with pytest.raises(TableError) as caught:
        of_json(content)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"key,link\n", "has no column url; it has key, link", id="column"),
        pytest.param(b"", "has no column key; it has none", id="empty"),
        pytest.param(b"key,url\nk1,a\n\nk2\n", "line 4: has 1 values for 2 columns", id="short row"),
        pytest.param(b"key,url\nk1,a,b\n", "line 2: has 3 values for 2 columns", id="long row"),
        pytest.param(b'key,url\nk1,"a\nk2,b\nk3,c\n', "line 2: unexpected end of data", id="quote that is not closed"),
        pytest.param(b'key,url\nk1,"5 inch\nk2,"6 inch\nk3,c\n', "line 2: ',' expected after '\"'", id="two of them"),
        pytest.param(b"key,url,url\nk1,a,b\n", "has more than one column url", id="column twice"),
    ],
)
def test_csv_of_no_use(content: bytes, message: str) -> None:
    """The line, and what is wrong with it."""
    with pytest.raises(TableError) as caught:
        of_csv(content)

    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"key,url\r\n1,a\r\n2,b", [("1", "a"), ("2", "b")], id="Windows"),
        pytest.param(b"key,url\r1,a\r2,b\r", [("1", "a"), ("2", "b")], id="old Macintosh"),
        pytest.param(b'key,url\n1,"a\r\nb"\n', [("1", "a\r\nb")], id="line ends in a value"),
        pytest.param(b"\n\nkey,url\n\n1,a\n\n", [("1", "a")], id="empty lines"),
        pytest.param(b'url,key\n"a ""b"", c",1\n', [("1", 'a "b", c')], id="quotes"),
        pytest.param(b'key,url\n 1 , a"b\n', [(" 1 ", ' a"b')], id="spaces and odd quotes"),
        pytest.param(b'key,url\n,""\n', [("", "")], id="nothing"),
    ],
)
def test_csv_as_others_read_it(content: bytes, expected: list[tuple[str, str]]) -> None:
    """The values are those that pyarrow's reader has."""
    options = arrow.ConvertOptions(column_types={"key": pa.string(), "url": pa.string()})
    parse = arrow.ParseOptions(newlines_in_values=True)
    of_others = arrow.read_csv(io.BytesIO(content), parse_options=parse, convert_options=options).to_pylist()

    assert expected == [(row["key"], row["url"]) for row in of_csv(content)]
    assert of_others == [{name: row[name] for name in of_others[0]} for row in of_csv(content)]


def test_whole_numbers_and_strings_as_ids() -> None:
    """Each as it is; where both are in one table, all are text."""
    of_numbers, of_strings, of_both = (
        next(json_tables(io.BytesIO(json_of([{"key": key, "url": "a"} for key in keys])), "url", "key"))
        for keys in ([1, -(2**63)], ["1", "007"], [1, "007"])
    )

    assert [pa.int64(), pa.string(), pa.string()] == [
        table.column("key").type for table in (of_numbers, of_strings, of_both)
    ]
    assert ["1", "007"] == of_both.column("key").to_pylist()


def test_records_without_anything() -> None:
    """A file without records is none the worse; one with records must have the column."""
    assert [] == of_json(b"\n\n")
    with pytest.raises(TableError, match=r"^has no column url; it has none$"):
        of_json(b"{}\n{}\n", id_column=None)


def test_one_column_may_be_both() -> None:
    """A URL that names its row is a text."""
    assert [{"url": "a"}] == of_json(b'{"url": "a"}', "url", "url")
    assert [{"url": "a"}] == of_csv(b"url\na\n", ["url"])
    with pytest.raises(TableError, match="column url has a number, not text"):
        of_json(b'{"url": 1}', "url", "url")


BYTES = st.binary() | st.lists(
    st.sampled_from(
        [b'"', b",", b"\n", b"\r", b"\x00", b"\xff", b'{"url": ', b'"key": 1', b"}", b"key,url\n", b"[", b"1e5"]
    )
).map(b"".join)


@given(BYTES)
@example(b"key,url\n\x00\xff,\x00\n")
def test_any_bytes(content: bytes) -> None:
    """They are rows, or it is said why not."""
    for read in (of_csv, of_json):
        with suppress(TableError):
            read(content)
