"""The plan: every row once, in pieces, and written down whole or not at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

import bulk.plan
from bulk.errors import BulkError
from bulk.inputs import ID, Input, Kind
from bulk.places import Place
from bulk.plan import Folders, read_plan, read_rows, write_plan
from tests.bulk.plans import plan_of, planned, rows_table


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    st.integers(1, 7),
    st.integers(1, 12),
)
def test_every_row_has_one_place(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], piece_rows: int, part_rows: int
) -> None:
    """However the batches fall, all rows are there in order, and each piece is a row group of its part."""
    folders = Folders(Place.of(str(tmp_path_factory.mktemp("plan"))))
    total = sum(batches)
    begins = [sum(batches[:number]) for number in range(len(batches))]
    tables = [rows_table(range(begin, begin + size)) for begin, size in zip(begins, batches, strict=True) if size]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk.plan, "PART_ROWS", part_rows)
        plan = write_plan(folders, planned("x", piece_rows=piece_rows), tables)

    found = []
    for part in range(len(plan.parts)):
        groups = [read_rows(folders, part, groups=[piece]) for piece in range(plan.pieces_of(part))]
        assert [plan.rows_of(part, piece) for piece in range(plan.pieces_of(part))] == [len(group) for group in groups]
        assert plan.parts[part] == sum(len(group) for group in groups)
        found += pa.concat_tables(groups).column(ID).to_pylist()
    assert list(range(total)) == found
    assert total == plan.rows
    assert plan == read_plan(folders)


def test_two_that_plan_into_one_output(tmp_path: Path) -> None:
    """The second one ends: else one plan could have the other's rows."""
    folders = Folders(Place.of(str(tmp_path)))

    def batches() -> Iterator[pa.Table]:
        with pytest.raises(BulkError, match="another run plans into it now"):
            write_plan(folders, planned("x"), [rows_table(["b"])])
        yield rows_table(["a"])

    plan = write_plan(folders, planned("x"), batches())

    assert ["a"] == read_rows(folders, 0).column(ID).to_pylist()
    assert plan == read_plan(folders)


@pytest.mark.parametrize(
    "ids", [pytest.param([5, 7, 9, 7], id="numbers"), pytest.param(["a", "c", "d", "c"], id="strings")]
)
@pytest.mark.parametrize("cut", [pytest.param(4, id="in one batch"), pytest.param(2, id="in two batches")])
def test_an_id_that_comes_twice(tmp_path: Path, ids: list[int | str], cut: int) -> None:
    """It is named with both its rows, and there is no plan."""
    folders = Folders(Place.of(str(tmp_path)))
    with pytest.raises(BulkError, match=f"the id {ids[1]!r} comes twice, in rows 1 and 3"):
        write_plan(folders, planned("x"), [rows_table(batch) for batch in (ids[:cut], ids[cut:]) if batch])

    assert read_plan(folders) is None


def test_an_id_that_comes_twice_in_two_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are counted over all of the input."""
    monkeypatch.setattr(bulk.plan, "PART_ROWS", 3)

    with pytest.raises(BulkError, match="the id 2 comes twice, in rows 2 and 7"):
        plan_of(tmp_path, [0, 1, 2, 3, 4, 5, 6, 2])


def test_two_ids_with_one_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are two ids all the same."""
    monkeypatch.setattr(pd.util, "hash_array", lambda ids: np.zeros(len(ids), np.uint64))

    plan, _ = plan_of(tmp_path, ["a", "b", "c"])
    with pytest.raises(BulkError, match="the id 'b' comes twice"):
        plan_of(tmp_path, ["a", "b", "b"])

    assert 3 == plan.rows


MANY = 30_000


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        pytest.param([[str(n) for n in range(MANY)]], pa.int64(), id="whole numbers"),
        pytest.param([[f"{n:05}" for n in range(MANY)]], pa.string(), id="zeros in front of the first ones"),
        pytest.param([[*map(str, range(MANY)), "A7"]], pa.string(), id="text at the end"),
        pytest.param([[*map(str, range(MANY)), "007"]], pa.string(), id="zeros at the end"),
        pytest.param([["1", "2"], ["A7"], ["3"]], pa.string(), id="text in the second file"),
        pytest.param([["A7"], ["1", "2"]], pa.string(), id="text in the first file"),
        pytest.param([["1"], ["2"]], pa.int64(), id="whole numbers in two files"),
    ],
)
def test_ids_of_a_csv_are_numbers_if_all_of_them_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[list[str]], expected: pa.DataType
) -> None:
    """Over all files and parts, however late it is seen; or else each is as it is written."""
    monkeypatch.setattr(bulk.plan, "PART_ROWS", 4_000)
    (tmp_path / "in").mkdir()
    for number, of_file in enumerate(ids):
        rows = "".join(f"{identity},{'x' * 50}\n" for identity in of_file)
        (tmp_path / "in" / f"{number}.csv").write_text(f"key,text\n{rows}")
    given = Input(str(tmp_path / "in"), Kind.TEXT, "text", "key")
    folders = Folders(Place.of(str(tmp_path / "out")))

    plan = write_plan(folders, replace(planned(""), input=given), given.batches())

    written = [read_rows(folders, part).column(ID) for part in range(len(plan.parts))]
    whole = [identity for of_file in ids for identity in of_file]
    assert {expected} == {column.type for column in written}
    assert whole == [str(identity) for column in written for identity in column.to_pylist()]
    assert len(whole) == plan.rows


def test_ids_of_two_types(tmp_path: Path) -> None:
    """Strings, with what is a number in other files among them; one that is both comes twice."""
    for name, keys in (("a", [1, 2]), ("b", ["x", "3"]), ("c", [4])):
        parquet.write_table(pa.table({"key": keys, "text": ["t"] * len(keys)}), tmp_path / f"{name}.parquet")
    given = Input(str(tmp_path), Kind.TEXT, "text", "key")
    folders = Folders(Place.of(str(tmp_path / "out")))
    write_plan(folders, replace(planned(""), input=given), given.batches())

    assert ["1", "2", "x", "3", "4"] == read_rows(folders, 0).column(ID).to_pylist()
    for first, second in (([1, 2], ["2"]), (["2"], [1, 2])):
        with pytest.raises(BulkError, match="the id '2' comes twice"):
            write_plan(folders, planned(""), [rows_table(first), rows_table(second)])


@pytest.mark.parametrize("place", ["first", "last"])
def test_file_without_rows(tmp_path: Path, place: str) -> None:
    """It does not decide what ids are, whatever its columns could hold."""
    nothing = rows_table(["a"]).slice(0, 0)
    batches = [nothing, rows_table([1, 2])] if place == "first" else [rows_table([1, 2]), nothing]
    folders = Folders(Place.of(str(tmp_path / "out")))
    write_plan(folders, planned(""), batches)

    assert [1, 2] == read_rows(folders, 0).column(ID).to_pylist()


def test_no_rows(tmp_path: Path) -> None:
    """There is nothing to plan."""
    for batches in ([], [pa.table({ID: pa.array([], pa.int64()), "source": pa.array([], pa.string())})]):
        with pytest.raises(BulkError, match="the input has no rows"):
            write_plan(Folders(Place.of(str(tmp_path))), planned("x"), batches)

    assert read_plan(Folders(Place.of(str(tmp_path)))) is None


def test_input_that_breaks_in_the_middle_leaves_no_plan(tmp_path: Path) -> None:
    """And what was begun is not in the way of the next try."""
    folders = Folders(Place.of(str(tmp_path)))

    def breaking() -> Iterator[pa.Table]:
        yield rows_table([1, 2, 3])
        raise OSError("gone")

    with pytest.raises(BulkError, match="gone"):
        write_plan(folders, planned("x"), breaking())
    assert read_plan(folders) is None
    plan = write_plan(folders, planned("x"), [rows_table([8])])

    assert [8] == read_rows(folders, 0).column(ID).to_pylist()
    assert (1,) == plan.parts


def test_pieces_of_a_plan_that_is_gone_are_gone(tmp_path: Path) -> None:
    """They would pass for pieces of this one."""
    _, folders = plan_of(tmp_path, [1])
    (folders.pieces / "part-00000-00000.parquet").write(lambda stream: stream.write(b"of another input"))
    folders.plan.remove()

    plan_of(tmp_path, [2])

    assert [] == folders.pieces.files()


def test_plan_of_another_version(tmp_path: Path) -> None:
    """It is refused, not guessed at."""
    _, folders = plan_of(tmp_path, [1])
    folders.plan.write(lambda stream: stream.write(b'{"version": 0}'))

    with pytest.raises(BulkError, match="another version"):
        read_plan(folders)


def test_output_without_its_plan_is_not_taken_for_this_run(tmp_path: Path) -> None:
    """Vectors of who knows which input would pass for this one's."""
    (tmp_path / "vectors").mkdir()

    with pytest.raises(BulkError, match="vectors of another run"):
        plan_of(tmp_path, [1])
