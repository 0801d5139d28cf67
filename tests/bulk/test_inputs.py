"""What is to be embedded, as it lies: every format gives the same rows, and what is wrong is one line with a name."""

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bulk.errors import BulkError
from bulk.inputs import FILE, GROUP, ID, ROW, SOURCE, Input, Kind
from bulk.places import Place
from tests.bulk.object_store import S3_KEYS, s3


def texts(uri: Path | str, *, id_column: str | None = None, column: str = "text") -> Input:
    return Input(str(uri), Kind.TEXT, column, id_column)


def rows(given: Input) -> list[tuple[object, object]]:
    tables = list(given.batches())
    return [row for table in tables for row in zip(*(table.column(n).to_pylist() for n in (ID, SOURCE)), strict=True)]


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def lines(records: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def write_each_format(folder: Path) -> dict[str, Path]:
    """The same three rows."""
    records = [{"key": f"k{number}", "text": text, "other": 1} for number, text in enumerate(["a", "b,\n c", "ü"])]
    written = {name: folder / f"rows.{name}" for name in ("parquet", "csv", "jsonl", "csv.gz", "pq", "ndjson.gz")}
    as_csv = 'key,text,other\nk0,a,1\nk1,"b,\n c",1\nk2,ü,1\n'
    for name in ("parquet", "pq"):
        write_parquet(written[name], {key: [record[key] for record in records] for key in records[0]})
    written["csv"].write_text(as_csv, "utf-8")
    written["csv.gz"].write_bytes(gzip.compress(as_csv.encode()))
    written["jsonl"].write_text(lines(records), "utf-8")
    written["ndjson.gz"].write_bytes(gzip.compress(lines(records).encode()))
    return written


@pytest.mark.parametrize("name", ["parquet", "pq", "csv", "csv.gz", "jsonl", "ndjson.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """In order, with the ids that were named, or numbers."""
    given = write_each_format(tmp_path)[name]

    assert [("k0", "a"), ("k1", "b,\n c"), ("k2", "ü")] == rows(texts(given, id_column="key"))
    assert [(0, "a"), (1, "b,\n c"), (2, "ü")] == rows(texts(given))
    assert 3 == texts(given).count()


def test_lines_within_a_value_do_not_end_a_row(tmp_path: Path) -> None:
    """Also where a large file is read in blocks."""
    text = "one\n" * 50
    (tmp_path / "a.csv").write_text("key,text\n" + "".join(f'{number},"{text}"\n' for number in range(20_000)))

    tables = list(texts(tmp_path / "a.csv", id_column="key").batches())

    assert len(tables) > 1
    assert list(range(20_000)) == [one for table in tables for one in table.column(ID).to_pylist()]
    assert {text} == {one for table in tables for one in table.column(SOURCE).to_pylist()}


def test_files_of_a_folder_follow_each_other(tmp_path: Path) -> None:
    """By their paths, the folders below included; what is no table is left out; numbers go on."""
    (tmp_path / "b").mkdir()
    write_parquet(tmp_path / "b" / "1.parquet", {"text": ["third"]})
    write_parquet(tmp_path / "a.parquet", {"text": ["first", "second"]})
    (tmp_path / "_SUCCESS").write_text("")

    assert [(0, "first"), (1, "second"), (2, "third")] == rows(texts(tmp_path))


NAMES = ("a-1.csv", "a-2.csv", "b-2.csv", "old/a-1.csv", "old/x/c.csv", "new/c.csv", ".hidden/a-1.csv", ".a-1.csv")


@contextmanager
def s3_uri(_: Path) -> Iterator[str]:
    with s3() as (options, _), pytest.MonkeyPatch.context() as patch:
        for name, value in S3_KEYS.items():
            patch.setenv(name, value)
        yield f"s3://bucket/table/{{}}?{options}"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(lambda folder: nullcontext(f"{folder}/{{}}"), id="path"),
        pytest.param(lambda folder: nullcontext(f"{folder.as_uri()}/{{}}"), id="file URI"),
        pytest.param(lambda folder: nullcontext(f"memory://{folder.name}/{{}}"), id="fsspec"),
        pytest.param(s3_uri, id="S3"),
    ],
)
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with files of those names; its URI has `{}` for a pattern."""
    with request.param(tmp_path_factory.mktemp("table")) as uri:
        for name in NAMES:
            place = Place.of(uri.format(name))
            Place.of(uri.format(name.rpartition("/")[0])).make()
            place.write(lambda stream: stream.write(b"text\nx\n"))
        yield uri


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("a-*.csv", ["a-1.csv", "a-2.csv"], id="star"),
        pytest.param("a-[1].csv", ["a-1.csv"], id="set"),
        pytest.param("*", ["a-1.csv", "a-2.csv", "b-2.csv"], id="of this folder"),
        pytest.param("*/*.csv", ["new/c.csv", "old/a-1.csv"], id="of the folders below"),
        pytest.param("o*/x/[!d].csv", ["old/x/c.csv"], id="folder"),
        pytest.param(
            "**/*.csv",
            ["a-1.csv", "a-2.csv", "b-2.csv", "new/c.csv", "old/a-1.csv", "old/x/c.csv"],
            id="any depth",
        ),
        pytest.param("**/c.csv", ["new/c.csv", "old/x/c.csv"], id="name at any depth"),
        pytest.param("old/**", ["old/a-1.csv", "old/x/c.csv"], id="all below"),
        pytest.param("**/old/**/c.csv", ["old/x/c.csv"], id="any depth twice"),
        pytest.param(".*/*.csv", [".hidden/a-1.csv"], id="hidden"),
    ],
)
def test_patterns(table: str, pattern: str, expected: list[str]) -> None:
    """As a shell has them: a wildcard is for one name, and for none that begins with a dot."""
    files = texts(table.format(pattern)).files()

    assert expected == [file.path.removeprefix(f"{Place.of(table.format('')).path}/") for file in files]


def test_question_mark_of_a_path(tmp_path: Path) -> None:
    """It is any one character."""
    for name in ("a-1.csv", "b-1.csv", "bb-1.csv"):
        (tmp_path / name).write_text("text\nx\n")

    assert ["a-1.csv", "b-1.csv"] == [Path(file.path).name for file in texts(tmp_path / "?-1.csv").files()]


def test_question_mark_of_a_uri_is_its_query(tmp_path: Path) -> None:
    """It says how to come to a filesystem, also behind a pattern; the S3 of test_s3.py is named so."""
    for name in ("a-1.csv", "a-2.csv"):
        (tmp_path / name).write_text("text\nx\n")
    folder = texts(f"file://{tmp_path}?use_mmap=false")
    pattern = texts(f"file://{tmp_path}/*-2.csv?use_mmap=false")

    assert [2, 1] == [len(given.files()) for given in (folder, pattern)]


def test_image_files_are_named_by_where_they_are(tmp_path: Path) -> None:
    """Below the folder that was given; a file alone by its name."""
    (tmp_path / "in").mkdir()
    for name in ("in/b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    folder = Input(str(tmp_path), Kind.IMAGE_FILE, None, None)
    alone = Input(str(tmp_path / "in" / "b.JPG"), Kind.IMAGE_FILE, None, None)

    assert [("a.png", f"{tmp_path}/a.png"), ("in/b.JPG", f"{tmp_path}/in/b.JPG")] == rows(folder)
    assert [("b.JPG", f"{tmp_path}/in/b.JPG")] == rows(alone)
    assert (2, 1) == (folder.count(), alone.count())


def test_bytes_are_named_and_not_copied(tmp_path: Path) -> None:
    """A row says in which file, group of rows and row its image lies."""
    for name, first in (("a", 0), ("b", 5)):
        table = pa.table({"id": range(first, first + 5), "image": [b"x"] * 5})
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=3)

    [table] = [pa.concat_tables(Input(str(tmp_path), Kind.IMAGE_BYTES, "image", "id").batches())]

    assert list(range(10)) == table.column(ID).to_pylist()
    a, b = f"{tmp_path}/a.parquet", f"{tmp_path}/b.parquet"
    assert [(a, 0, 0), (a, 0, 1), (a, 0, 2), (a, 1, 0), (a, 1, 1)] == [
        tuple(row[name] for name in (FILE, GROUP, ROW)) for row in table.slice(0, 5).to_pylist()
    ]
    assert {b} == set(table.slice(5).column(FILE).to_pylist())


def test_one_column_may_be_both(tmp_path: Path) -> None:
    """A URL that names its row."""
    for name, path in write_each_format(tmp_path).items():
        assert ["k0", "k1", "k2"] == [one for one, _ in rows(texts(path, id_column="key", column="key"))], name


def test_rows_without_anything(tmp_path: Path) -> None:
    """They keep their place: what becomes of them is told later."""
    write_parquet(tmp_path / "a.parquet", {"text": pa.array([None, "", "x"])})
    write_parquet(tmp_path / "b.parquet", {"text": pa.nulls(1)})

    assert [(0, None), (1, ""), (2, "x"), (3, None)] == rows(texts(tmp_path))


def test_files_without_rows_say_nothing_of_ids(tmp_path: Path) -> None:
    """An export has such files, and no type in them."""
    (tmp_path / "a.csv").write_text("key,text\n")
    (tmp_path / "b.csv").write_text("key,text\n1,x\n")
    write_parquet(tmp_path / "c.parquet", {"key": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    write_parquet(tmp_path / "d.parquet", {"key": [2], "text": ["y"]})

    assert [(1, "x"), (2, "y")] == rows(texts(tmp_path, id_column="key"))


@pytest.mark.parametrize(
    "strings",
    [
        pytest.param(lambda given: given.dictionary_encode(), id="categories of pandas"),
        pytest.param(lambda given: given.cast(pa.large_string()), id="large"),
        pytest.param(lambda given: given.cast(pa.string_view()), id="views"),
    ],
)
def test_strings_of_any_type(tmp_path: Path, strings: Callable[[pa.Array], pa.Array]) -> None:
    """Which one a writer has chosen is nothing that its user knows."""
    keys, values = strings(pa.array(["k0", "k1"])), strings(pa.array(["a", None]))
    path = write_parquet(tmp_path / "a.parquet", {"key": keys, "text": values})

    assert [("k0", "a"), ("k1", None)] == rows(texts(path, id_column="key"))


def test_bytes_of_any_type(tmp_path: Path) -> None:
    """Of views too, whose ids may be categories."""
    images, keys = pa.array([b"x"], pa.binary_view()), pa.array(["k0"]).dictionary_encode()
    path = write_parquet(tmp_path / "a.parquet", {"key": keys, "image": images})

    [table] = Input(str(path), Kind.IMAGE_BYTES, "image", "key").batches()

    assert ["k0"] == table.column(ID).to_pylist()


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.IMAGE_BYTES])
def test_parquet_that_is_not_in_utf8_is_refused_before_the_run(tmp_path: Path, kind: Kind) -> None:
    """Nobody has looked at it when it was written; the row that would end the run is named."""
    latin = pa.array(["caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1")]).view(pa.string())
    keys = pa.concat_arrays([pa.array(["a", "b"]), latin])
    columns = {"key": keys, "text": keys if kind is Kind.TEXT else pa.array([b"x"] * 3)}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)

    with pytest.raises(BulkError, match=r"a\.parquet: row 2: column key is not in UTF-8"):
        list(Input(str(tmp_path), kind, "text", "key").batches())


def test_file_whose_name_is_not_in_utf8_is_named(tmp_path: Path) -> None:
    """In one line that any terminal can show."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.png")).write_bytes(b"x")

    with pytest.raises(BulkError) as caught:
        Input(str(tmp_path), Kind.IMAGE_FILE, None, None).files()

    assert f"'{tmp_path}/b\\udcff.png': a file's name must be in UTF-8" == str(caught.value)


TABLE = {"key": [1, 2], "text": ["a", "b"]}


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        pytest.param(TABLE, {"column": "txt"}, "has no column txt; it has key, text", id="column"),
        pytest.param(TABLE, {"id_column": "id"}, "has no column id; it has key, text", id="id column"),
        pytest.param(TABLE, {"column": "key"}, "column key is int64, not text", id="numbers as texts"),
        pytest.param(
            {"key": [1.0, 2.0], "text": ["a", "b"]}, {"id_column": "key"}, "ids are double; they must be", id="floats"
        ),
        pytest.param({"key": [1, None], "text": ["a", "b"]}, {"id_column": "key"}, "1 rows have no id", id="null"),
        pytest.param(
            {"key": pa.array([2**63], pa.uint64()), "text": ["a"]},
            {"id_column": "key"},
            "9223372036854775808",
            id="huge",
        ),
    ],
)
@pytest.mark.parametrize("end", ["parquet", "jsonl"])
def test_table_of_no_use(
    tmp_path: Path, columns: dict[str, Any], given: dict[str, str], message: str, end: str
) -> None:
    """The file and what is wrong with it, in one line."""
    path = tmp_path / f"a.{end}"
    table = pa.table(columns)
    if end == "parquet":
        parquet.write_table(table, path)
    else:
        path.write_text(lines(table.to_pylist()))

    with pytest.raises(BulkError) as caught:
        list(texts(path, **given).batches())

    assert str(caught.value).startswith(f"{path}: ")
    assert 1 == len(str(caught.value).splitlines())
    if end == "parquet":  # what is said of lines is in test_lines
        assert message in str(caught.value)


@pytest.mark.parametrize("end", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(["007", "7"], id="zeros in front"),
        pytest.param(["2024-01-01", "2024-01-02"], id="dates"),
        pytest.param(["2024-01-01T10:00:00Z", "x"], id="a date and none"),
        pytest.param(["1e3", "1000.0"], id="other numbers"),
        pytest.param(["true", "false"], id="yes and no"),
        pytest.param(["+1", " 1", "-0"], id="almost whole numbers"),
        pytest.param(["9223372036854775808", "1"], id="beyond all whole numbers"),
    ],
)
def test_ids_are_what_is_written(tmp_path: Path, ids: list[str], end: str) -> None:
    """A reader's guess of what they are meant for makes others of them, or one of two."""
    path = tmp_path / f"a.{end}"
    records = [{"key": identity, "text": "2024-01-01"} for identity in ids]
    if end == "csv":
        path.write_text("key,text\n" + "".join(f"{record['key']},{record['text']}\n" for record in records))
    else:
        path.write_text(lines(records))

    assert [(identity, "2024-01-01") for identity in ids] == rows(texts(path, id_column="key"))


def test_whole_numbers_of_a_csv_are_numbers(tmp_path: Path) -> None:
    """As they are in any other format; only Parquet and JSON say it themselves."""
    path = tmp_path / "a.csv"
    path.write_text("key,text\n-3,a\n0,b\n9223372036854775807,c\n")

    assert [(-3, "a"), (0, "b"), (2**63 - 1, "c")] == rows(texts(path, id_column="key"))


@pytest.mark.parametrize("ids", [pytest.param("1,", id="of numbers"), pytest.param("a,", id="of text")])
def test_csv_without_an_id(tmp_path: Path, ids: str) -> None:
    """An id that is not there is none, also where ids are text."""
    path = tmp_path / "a.csv"
    path.write_text("key,text\n" + "".join(f"{identity},a\n" for identity in ids.split(",")))

    with pytest.raises(BulkError, match=rf"^{path}: 1 rows have no id$"):
        rows(texts(path, id_column="key"))


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl", "csv.gz"])
def test_broken_file_is_named(tmp_path: Path, end: str) -> None:
    """Also in the middle of a folder, behind good ones."""
    write_parquet(tmp_path / "a.parquet", {"text": ["a"]})
    (tmp_path / f"b.{end}").write_bytes(b"\x00{\xff,\n" * 3)

    with pytest.raises(BulkError, match=rf"^{tmp_path}/b.{end}: .+") as caught:
        rows(texts(tmp_path))
    assert 1 == len(str(caught.value).splitlines())


def test_cut_parquet_is_named(tmp_path: Path) -> None:
    """Its footer is whole, and its pages are not."""
    path = write_parquet(
        tmp_path / "a.parquet", {"text": [f"a text of a certain length {number}" for number in range(5000)]}
    )
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])

    with pytest.raises(BulkError, match=rf"^{path}: "):
        rows(texts(path))


@pytest.mark.parametrize("uri", ["s3://name:a-secret@bucket/images", "abfs://c@a.dfs.core.windows.net/t?sig=a-secret"])
def test_key_in_a_uri_is_refused(uri: str) -> None:
    """Without being shown: the plan would keep it for whoever reads the output."""
    with pytest.raises(BulkError, match="which would be written down") as caught:
        Input(uri, Kind.IMAGE_FILE, None, None)

    assert "a-secret" not in str(caught.value)


def test_no_files(tmp_path: Path) -> None:
    """Where there is nothing, or nothing that can be read, it is said what could be."""
    (tmp_path / "a.txt").write_text("x")
    for uri in (tmp_path, tmp_path / "none", tmp_path / "*.csv"):
        with pytest.raises(BulkError, match=r"there are no files there that end in \.parquet"):
            texts(uri).files()
    with pytest.raises(BulkError, match=r"a\.txt: must be a file of \.parquet"):
        rows(texts(tmp_path / "a.txt"))
    with pytest.raises(BulkError, match=r"\.avif, .*\.webp"):
        Input(str(tmp_path), Kind.IMAGE_FILE, None, None).files()


def test_bytes_are_of_parquet(tmp_path: Path) -> None:
    """No other format has them, and another type is none."""
    write_parquet(tmp_path / "a.parquet", {"image": ["text"]})
    (tmp_path / "a.csv").write_text("image\nx\n")

    with pytest.raises(BulkError, match="column image is string, not bytes"):
        list(Input(str(tmp_path / "a.parquet"), Kind.IMAGE_BYTES, "image", None).batches())
    with pytest.raises(BulkError, match="a column of bytes: Parquet"):
        list(Input(str(tmp_path / "a.csv"), Kind.IMAGE_BYTES, "image", None).batches())


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 60))
def test_sample_is_of_files_that_lie_apart(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], n: int) -> None:
    """Each row at most once, numbered from 0, and not more than a row for each file too many."""
    folder = tmp_path_factory.mktemp("sample")
    for number, size in enumerate(sizes):
        table = pa.table({"text": pa.array([f"{number}-{row}" for row in range(size)], pa.string())})
        parquet.write_table(table, folder / f"{number:02}.parquet")

    sampled = [row for table in texts(folder).sample(n) for row in table.to_pylist()]

    assert list(range(len(sampled))) == [row[ID] for row in sampled]
    assert len(sampled) == len({row[SOURCE] for row in sampled}) <= n + 8
    assert sum(sizes) == texts(folder).count()
