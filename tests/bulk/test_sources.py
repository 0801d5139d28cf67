"""What the rows of a piece name, read from where it lies: the right row's, whichever rows a piece has."""

import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs, parquet

from bulk.errors import BulkError
from bulk.inputs import Input, Kind
from bulk.outcomes import Reject, Work
from bulk.places import Place
from bulk.plan import Folders, Plan, Planned, write_plan
from bulk.sources import Sources, read_file
from tests.bulk.plans import MODEL

ROWS = 17


def plan_of(output: Path, given: Input) -> tuple[Plan, Folders]:
    folders = Folders(Place.of(str(output)))
    return write_plan(folders, Planned(given, MODEL, "float32", "parquet", 4), given.batches()), folders


def work(positions: list[int]) -> Work:
    return Work(0, 0, np.asarray(positions, np.int32))


@pytest.fixture(scope="module")
def bytes_in_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Folders]:
    """In two files with row groups that are no pieces."""
    folder = tmp_path_factory.mktemp("bytes")
    images = [None if number == 9 else b"%d" % number for number in range(ROWS)]
    for name, part in (("b.parquet", images[:8]), ("c.parquet", images[8:])):
        parquet.write_table(pa.table({"image": pa.array(part, pa.binary())}), folder / name, row_group_size=3)
    made = plan_of(tmp_path_factory.mktemp("out"), Input(str(folder), Kind.IMAGE_BYTES, "image", None))
    # What comes into the folder later is no row of this plan, and moves none.
    parquet.write_table(pa.table({"image": [b"new"] * 50}), folder / "a.parquet")
    return made


@given(st.lists(st.integers(0, ROWS - 1), min_size=1, unique=True))
def test_bytes_are_the_rows_own(bytes_in_files: tuple[Plan, Folders], positions: list[int]) -> None:
    """Any rows in any order, from whichever row groups."""
    found = Sources(*bytes_in_files).read(work(positions))

    assert [None if number == 9 else b"%d" % number for number in positions] == found


@given(positions=st.lists(st.integers(0, ROWS - 1), min_size=1, unique=True))
def test_texts_are_the_rows_own(tmp_path_factory: pytest.TempPathFactory, positions: list[int]) -> None:
    """Also some rows of some pieces, as when they are tried again."""
    folder = tmp_path_factory.mktemp("texts")
    parquet.write_table(pa.table({"text": [f"text {number}" for number in range(ROWS)]}), folder / "a.parquet")
    sources = Sources(*plan_of(folder / "out", Input(str(folder / "a.parquet"), Kind.TEXT, "text", None)))

    assert [f"text {number}" for number in positions] == sources.read(work(positions))


@pytest.mark.parametrize(
    ("keys", "id_column"),
    [
        pytest.param(["z", "a", "b", "c"], "key", id="a row more"),
        pytest.param(["b", "a", "c"], "key", id="in another order"),
        pytest.param(["a"], "key", id="rows gone"),
        pytest.param(["a"], None, id="rows gone, numbered"),
    ],
)
def test_bytes_of_an_input_that_has_changed(tmp_path: Path, keys: list[str], id_column: str | None) -> None:
    """They are another row's: a run that goes on must not give them to this one."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"key": ["a", "b", "c"], "image": [b"a", b"b", b"c"]}), path)
    plan, folders = plan_of(tmp_path / "out", Input(str(path), Kind.IMAGE_BYTES, "image", id_column))
    as_planned = Sources(plan, folders).read(work([0, 1, 2]))
    parquet.write_table(pa.table({"key": keys, "image": [key.encode() for key in keys]}), path)

    assert [b"a", b"b", b"c"] == as_planned
    with pytest.raises(BulkError, match=r"a\.parquet: has other rows than when the run began"):
        Sources(plan, folders).read(work([0, 1, 2]))


def test_paths_and_files_are_places(tmp_path: Path) -> None:
    """A path that leads nowhere at all is that row's alone."""
    (tmp_path / "a.png").write_bytes(b"x")
    paths = [str(tmp_path / "a.png"), f"file://{tmp_path}/a.png", "nobodys://x/y", None]
    parquet.write_table(pa.table({"path": paths}), tmp_path / "rows.parquet")
    named = Input(str(tmp_path / "rows.parquet"), Kind.IMAGE_PATH, "path", None)
    files = Input(str(tmp_path), Kind.IMAGE_FILE, None, None)

    one, two, wrong, nothing = Sources(*plan_of(tmp_path / "o1", named)).read(work([0, 1, 2, 3]))
    [file] = Sources(*plan_of(tmp_path / "o2", files)).read(work([0]))

    for place in (one, two, file):
        assert isinstance(place, Place)
        assert b"x" == read_file(place, 9)
    assert isinstance(wrong, Reject)
    assert "nobodys" in wrong.message
    assert nothing is None


def test_a_row_without_a_path_has_nothing(tmp_path: Path) -> None:
    """Also where a CSV has nothing between two commas: it is no folder that this process happens to be in."""
    parquet.write_table(pa.table({"path": ["", None]}), tmp_path / "rows.parquet")
    named = Input(str(tmp_path / "rows.parquet"), Kind.IMAGE_PATH, "path", None)

    assert [None, None] == Sources(*plan_of(tmp_path / "out", named)).read(work([0, 1]))


# What it takes to open them is not in a URI, or they are somebody's server.
_ODD = [
    "github://x",
    "reference://x",
    "hf://x",
    "jupyter://x",
    "dir://x",
    "generic://x",
    "dbfs://x",
    "http://10.0.0.1/x",
]


def test_odd_paths_are_their_rows_rejects(tmp_path: Path) -> None:
    """Whatever filesystem a row names, the rows beside it are read."""
    (tmp_path / "a.png").write_bytes(b"x")
    paths = [str(tmp_path / "a.png"), *_ODD, f"file://{tmp_path}/a.png"]
    parquet.write_table(pa.table({"path": paths}), tmp_path / "rows.parquet")
    given = Input(str(tmp_path / "rows.parquet"), Kind.IMAGE_PATH, "path", None)

    one, *odd, two = Sources(*plan_of(tmp_path / "out", given)).read(work(list(range(len(paths)))))

    for place in (one, two):
        assert isinstance(place, Place)
        assert b"x" == read_file(place, 9)
    assert [("FILE_UNREADABLE", False)] * len(_ODD) == [
        (source.code, source.retryable) for source in odd if isinstance(source, Reject)
    ]


def test_what_another_library_raises_is_the_rows_reject() -> None:
    """Those below fsspec have exceptions of their own, and say what they were asked for: a reject has no key."""

    class Faulty(fsspec.AbstractFileSystem):  # type: ignore[misc] # it has no types
        def isfile(self, path: str) -> bool:
            return bool(path)

        def _open(self, path: str, **_: object) -> None:
            raise LookupError(f"503 of https://key:a-secret@host/{path}?sig=a-secret: slow down")

    place = Place(fs.PyFileSystem(fs.FSSpecHandler(Faulty())), "a.png")

    assert Reject("FILE_UNREADABLE", "503 of https://host/a.png slow down", retryable=True) == read_file(place, 9)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("{}/pipe", id="path"),
        pytest.param("file://{}/pipe", id="URI"),
        pytest.param("file://{}/a pipe", id="URI that pyarrow refuses"),
        pytest.param("/dev/zero", id="device"),
        pytest.param("{}", id="folder"),
        pytest.param("file://{}/a%20folder", id="URI of a folder"),
    ],
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, form: str) -> None:
    """Whoever opens a pipe waits for its other end, and with it all rows of the run; and none is one later."""
    (tmp_path / "a folder").mkdir()
    for name in ("pipe", "a pipe"):
        os.mkfifo(tmp_path / name)

    assert Reject("FILE_UNREADABLE", "is no file", retryable=False) == read_file(Place.of(form.format(tmp_path)), 9)


@pytest.mark.parametrize(
    ("size", "expected"),
    [pytest.param(9, 9, id="fits"), pytest.param(10, 10, id="fits just"), pytest.param(99, 11, id="too large")],
)
def test_a_file_is_read_so_far_as_its_size_is_known(tmp_path: Path, size: int, expected: int) -> None:
    """A byte more than may be tells that it is too large, and no more of it is read."""
    (tmp_path / "a").write_bytes(bytes(size))

    assert bytes(expected) == read_file(Place.of(str(tmp_path / "a")), 10)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """One that is not there stays away; a disk may come back."""
    # Nothing is at the address 0: reading there is an error of input and output.
    missing, broken = (read_file(Place.of(str(path)), 10) for path in (tmp_path / "a", "/proc/self/mem"))

    assert isinstance(missing, Reject)
    assert isinstance(broken, Reject)
    assert (False, True) == (missing.retryable, broken.retryable)
