"""Pieces and parts: whatever order they come in, and wherever a run ends, each row is in the output once."""

import io
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bulk.account import Cost
from bulk.cluster import Sizes
from bulk.errors import BulkError
from bulk.outcomes import Reject, Work
from bulk.places import Place
from bulk.plan import Plan
from bulk.progress import Progress
from bulk.run import SUMMARY, Options, Run
from bulk.store import Store
from core.settings import load_settings
from tests.bulk.plans import LATER, MODEL, NEVER, outcomes, plan_of, vector

ROWS, PIECE_ROWS = 8, 3
BECOMES = st.lists(st.sampled_from([None, None, LATER, NEVER]), min_size=ROWS, max_size=ROWS)


def store_of(folder: Path) -> Store:
    plan, folders = plan_of(folder, [f"id-{number}" for number in range(ROWS)], piece_rows=PIECE_ROWS)
    store = Store(plan, folders)
    store.make()
    return store


def of_other(plan: Plan, **changed: Any) -> Plan:  # noqa: ANN401 - any field of what is planned
    return replace(plan, planned=replace(plan.planned, **changed))


def write(store: Store, piece: int, positions: list[int], becomes: list[Reject | None]) -> None:
    work = Work(0, piece, np.asarray(positions, np.int32))
    store.write_piece(work, outcomes(work, [becomes[position] for position in positions]))


def positions_of(piece: int) -> list[int]:
    return list(range(piece * PIECE_ROWS, min(ROWS, (piece + 1) * PIECE_ROWS)))


def in_output(folder: Path) -> tuple[dict[str, list[float]], dict[str, tuple[str, bool]]]:
    """What a reader finds: vectors and rejects by id."""
    vectors = parquet.read_table(folder / "vectors" / "part-00000.parquet")
    rejects = parquet.read_table(folder / "rejects" / "part-00000.parquet")
    return (
        {row["id"]: row["vector"] for row in vectors.to_pylist()},
        {row["id"]: (row["code"], row["retryable"]) for row in rejects.to_pylist()},
    )


def expected(becomes: list[Reject | None]) -> tuple[dict[str, list[float]], dict[str, tuple[str, bool]]]:
    return (
        {f"id-{number}": vector(number) for number, reject in enumerate(becomes) if reject is None},
        {f"id-{number}": (reject.code, reject.retryable) for number, reject in enumerate(becomes) if reject},
    )


@pytest.fixture
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("store")


@given(becomes=BECOMES, order=st.lists(st.integers(0, 2), max_size=6))
def test_pieces_in_any_order_and_twice(
    tmp_path_factory: pytest.TempPathFactory, becomes: list[Reject | None], order: list[int]
) -> None:
    """The part is the same."""
    folder = tmp_path_factory.mktemp("store")
    store = store_of(folder)
    for piece in [*order, 2, 1, 0]:
        write(store, piece, positions_of(piece), becomes)

    counts = store.merge(0)

    assert expected(becomes) == in_output(folder)
    assert ROWS == counts.vectors + counts.rejects
    assert {} == store.pieces_there()
    assert {0: counts} == store.complete_parts()


class Killed(BaseException):
    """What ends a process anywhere."""


@given(
    becomes=BECOMES,
    again=st.lists(st.sampled_from([None, LATER]), min_size=ROWS, max_size=ROWS),
    before_change=st.integers(0, 8),
)
def test_retry_killed_at_any_change_of_a_file(
    tmp_path_factory: pytest.TempPathFactory,
    becomes: list[Reject | None],
    again: list[Reject | None],
    before_change: int,
) -> None:
    """A vector wins over a reject, whichever of the files was written last, and nothing has to be known of that end."""
    folder = tmp_path_factory.mktemp("store")
    store = store_of(folder)
    for piece in range(3):
        write(store, piece, positions_of(piece), becomes)
    store.merge(0)
    retried = store.retryable(0)
    if retried:
        write(store, 0, retried, again)
        left = before_change

        def change(done: Callable[..., object]) -> Callable[..., object]:
            def one_less(*arguments: object) -> object:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return done(*arguments)

            return one_less

        with pytest.MonkeyPatch.context() as patch:
            for name in ("write", "remove"):
                patch.setattr(Place, name, change(getattr(Place, name)))
            with suppress(Killed):
                store.merge(0)
    store.merge_leftovers()

    now = [again[number] if number in retried else reject for number, reject in enumerate(becomes)]
    assert expected(now) == in_output(folder)
    assert {} == store.pieces_there()


@given(becomes=BECOMES, piece=st.integers(0, 2), kept=st.floats(0, 0.99))
def test_torn_piece_is_done_again(
    tmp_path_factory: pytest.TempPathFactory, becomes: list[Reject | None], piece: int, kept: float
) -> None:
    """What a full disk or a lost machine left is none, and no part is made of it."""
    folder = tmp_path_factory.mktemp("store")
    store = store_of(folder)
    for number in range(3):
        write(store, number, positions_of(number), becomes)
    torn = Path(store.pieces_there()[0][piece].path)
    content = torn.read_bytes()
    torn.write_bytes(content[: int(len(content) * kept)])

    assert [number != piece for number in range(3)] == [
        store.is_whole(place) for _, place in sorted(store.pieces_there()[0].items())
    ]
    with pytest.raises(BulkError, match=f"outcomes for {ROWS - len(positions_of(piece))} of its {ROWS} rows"):
        store.merge(0)
    assert {} == store.complete_parts()
    write(store, piece, positions_of(piece), becomes)
    store.merge(0)
    assert expected(becomes) == in_output(folder)


def test_rows_that_cannot_be_read_are_one_line(new_folder: Callable[[], Path]) -> None:
    """Pieces that are left over are merged before Ray is asked, so nobody else makes a line of it."""
    folder = new_folder()
    store = store_of(folder)
    write(store, 0, positions_of(0), [None] * ROWS)
    (folder / "_bulk" / "rows" / "part-00000.parquet").write_bytes(b"torn")

    with pytest.raises(BulkError, match=r"/_bulk/rows/part-00000\.parquet: "):
        store.merge(0)


def test_summary_that_cannot_be_written_is_one_line(new_folder: Callable[[], Path]) -> None:
    """The last file of a run, for which a disk may have no room any more."""
    folder = new_folder()
    store = store_of(folder)
    for piece in range(3):
        write(store, piece, positions_of(piece), [None] * ROWS)
    store.merge(0)
    (folder / SUMMARY / "in the way").mkdir(parents=True)
    options = Options(Sizes(1, 1.0, 0.0, 1, 1.0, 1), host_connections=1, cost=Cost(None))

    with pytest.raises(BulkError, match=f"/{SUMMARY}: "):
        Run(store, load_settings({"ALLOW_INSECURE_AUTH": "1"}), options).embed(Progress(io.StringIO()))


def test_vector_stays_where_its_reject_is_still_there(new_folder: Callable[[], Path]) -> None:
    """A retry that ended between the two files, and whose piece was lost with its machine."""
    folder = new_folder()
    store = store_of(folder)
    becomes: list[Reject | None] = [LATER] * ROWS
    for piece in range(3):
        write(store, piece, positions_of(piece), becomes)
    store.merge(0)
    old = (folder / "rejects" / "part-00000.parquet").read_bytes()
    write(store, 0, [2, 5], [None] * ROWS)
    store.merge(0)
    (folder / "rejects" / "part-00000.parquet").write_bytes(old)
    (folder / "_bulk" / "pieces" / "part-00000-00000.parquet").write_bytes(b"torn")

    store.merge_leftovers()

    assert expected([None if number in (2, 5) else LATER for number in range(ROWS)]) == in_output(folder)


def test_part_cut_between_its_files_is_made_again(new_folder: Callable[[], Path]) -> None:
    """Its vectors alone make it not complete."""
    folder = new_folder()
    store = store_of(folder)
    becomes: list[Reject | None] = [None] * ROWS
    for piece in range(3):
        write(store, piece, positions_of(piece), becomes)
    kept = shutil.copytree(folder / "_bulk" / "pieces", folder / "kept")
    store.merge(0)
    (folder / "rejects" / "part-00000.parquet").unlink()
    shutil.copytree(kept, folder / "_bulk" / "pieces", dirs_exist_ok=True)

    assert {} == store.complete_parts()
    store.merge(0)
    assert expected(becomes) == in_output(folder)


def test_pieces_of_another_model_are_none(new_folder: Callable[[], Path]) -> None:
    """Nor are parts: vectors that are not comparable are not mixed."""
    folder = new_folder()
    store = store_of(folder)
    for piece in range(3):
        write(store, piece, positions_of(piece), [None] * ROWS)
    other = Store(of_other(store.plan, model=replace(MODEL, fingerprint="2:bbbb")), store.folders)

    assert [False] * 3 == [other.is_whole(place) for place in other.pieces_there()[0].values()]
    store.merge(0)
    with pytest.raises(BulkError, match="is of another model than this run's"):
        other.complete_parts()


def test_part_with_rows_missing_is_refused(new_folder: Callable[[], Path]) -> None:
    """By the number of rows that its files have, and once more by their ids."""
    folder = new_folder()
    store = store_of(folder)
    for piece in range(3):
        write(store, piece, positions_of(piece), [None, LATER] * 4)
    store.merge(0)
    path = folder / "vectors" / "part-00000.parquet"
    parquet.write_table(parquet.read_table(path).slice(1), path)

    with pytest.raises(BulkError, match="3 vectors and 4 rejects of 8 rows"):
        store.complete_parts()


def test_part_is_read_back(new_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Right in number is not enough: each row must be there, and its pieces stay until it is."""
    store = store_of(new_folder())
    for piece in range(3):
        write(store, piece, positions_of(piece), [None] * ROWS)
    put = Store._write
    # The first row twice, and the last one not at all.
    twice = pa.array([0, *range(ROWS - 1)], pa.int32())
    monkeypatch.setattr(Store, "_write", lambda self, place, table: put(self, place, table.take(twice[: len(table)])))

    with pytest.raises(BulkError, match="have not each row once"):
        store.merge(0)

    assert 3 == len(store.pieces_there()[0])


def test_every_file_says_whose_vectors_it_has(new_folder: Callable[[], Path]) -> None:
    """The fingerprint is beside each vector and in what describes the file."""
    folder = new_folder()
    store = store_of(folder)
    for piece in range(3):
        write(store, piece, positions_of(piece), [None, LATER] * 4)
    pieces = [Path(place.path) for place in store.pieces_there()[0].values()]
    marks = [parquet.read_schema(path).metadata[b"fingerprint"] for path in pieces]
    store.merge(0)
    parts = [folder / name / "part-00000.parquet" for name in ("vectors", "rejects")]
    marks += [parquet.read_schema(path).metadata[b"fingerprint"] for path in parts]

    assert {MODEL.fingerprint.encode()} == set(marks)
    assert {MODEL.fingerprint} == set(parquet.read_table(parts[0]).column("fingerprint").to_pylist())
    assert [f"id-{number}" for number in range(0, ROWS, 2)] == parquet.read_table(parts[0]).column("id").to_pylist()


def test_rejects_are_counted_and_those_for_later_found(new_folder: Callable[[], Path]) -> None:
    """By their codes over all parts, and by their places in one."""
    store = store_of(new_folder())
    becomes = [None, LATER, NEVER, None, LATER, LATER, None, NEVER]
    for piece in range(3):
        write(store, piece, positions_of(piece), becomes)
    store.merge(0)

    assert {"DOWNLOAD_ERROR": 3, "INVALID_IMAGE": 2} == store.reject_codes()
    assert [1, 4, 5] == store.retryable(0)


def test_half_precision_is_what_is_written(new_folder: Callable[[], Path]) -> None:
    """Where it was asked for; within its rounding."""
    folder = new_folder()
    plan, folders = plan_of(folder, list(range(ROWS)), piece_rows=PIECE_ROWS)
    store = Store(of_other(plan, dtype="float16"), folders)
    store.make()
    for piece in range(3):
        write(store, piece, positions_of(piece), [None] * ROWS)
    store.merge(0)

    column = parquet.read_table(folder / "vectors" / "part-00000.parquet").column("vector")
    assert pa.list_(pa.float16(), MODEL.dim) == column.type
    assert [vector(number) for number in range(ROWS)] == column.to_pylist()
