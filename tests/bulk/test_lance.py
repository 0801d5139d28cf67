"""An output's vectors as one Lance dataset: the parts' rows in order, one version, and what was there until then."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from pyarrow import fs, parquet

from bulk.errors import BulkError
from bulk.inputs import ID, Input, Kind
from bulk.lance import dataset_uri, write_dataset
from bulk.outcomes import CODE, VECTOR, Reject, Work, table_of, vectors_array
from bulk.places import Place
from bulk.plan import Folders, Model, Plan, Planned, part_name
from bulk.store import FINGERPRINT, Store

lance = pytest.importorskip("lance")

DIM = 8
ROWS = (5, 3)
MODEL = Model("models/small", "2-0123456789abcdef", DIM, 224)
NOT_FOUND = Reject("DOWNLOAD_ERROR", "the server says 404", retryable=False)
AWAY = Reject("DOWNLOAD_ERROR", "the server says 503", retryable=True)

Outcome = Reject | None


def store_at(output: str, *, dtype: str = "float32", ids: Sequence[object] | None = None) -> Store:
    """An output of two parts, of which nothing has been done; ids are those given, or row numbers."""
    planned = Planned(Input("table.csv", Kind.TEXT, "text", None), MODEL, dtype, "lance", max(ROWS))
    folders = Folders(Place.of(output))
    folders.rows.make()
    numbered = pa.array(range(sum(ROWS)) if ids is None else ids)
    for part, rows in enumerate(ROWS):
        first = sum(ROWS[:part])
        table = pa.table({ID: numbered.slice(first, rows), "source": [f"text {first + row}" for row in range(rows)]})
        place = folders.part_of_rows(part)
        parquet.write_table(table, place.path, filesystem=place.filesystem)
    store = Store(Plan(planned, ROWS), folders)
    store.make()
    return store


def vectors_of(rows: Sequence[int]) -> npt.NDArray[np.float32]:
    """Of some rows of the input: each row's own, exact also in float16."""
    return np.asarray(rows, np.float32)[:, None] + np.linspace(0, 1, DIM, endpoint=False, dtype=np.float32)


def do(store: Store, part: int, outcomes: Sequence[Outcome]) -> None:
    """Make a part of one piece; None is a vector."""
    work = Work(part, 0, np.arange(len(outcomes), dtype=np.int32))
    rows = [sum(ROWS[:part]) + row for row in range(len(outcomes))]
    store.write_piece(work, table_of(work, outcomes, vectors_array(vectors_of(rows), pa.float32())))
    store.merge(part)


def done(output: str, *, dtype: str = "float32", ids: Sequence[object] | None = None) -> Store:
    """An output whose row 1 was rejected for good and whose row 6 for now, as its Lance dataset says."""
    store = store_at(output, dtype=dtype, ids=ids)
    do(store, 0, [None, NOT_FOUND, None, None, None])
    do(store, 1, [None, AWAY, None])
    write_dataset(store)
    return store


def read(store: Store) -> pa.Table:
    return lance.dataset(dataset_uri(store.folders)).to_table()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_dataset_has_the_vectors_of_all_parts_in_order(tmp_path: Path, dtype: str) -> None:
    """Rejects are in none; numbers are as wide as in the parts."""
    table = read(done(str(tmp_path), dtype=dtype))

    assert [0, 2, 3, 4, 5, 7] == table.column(ID).to_pylist()
    assert pa.list_(pa.type_for_alias(dtype), DIM) == table.schema.field(VECTOR).type
    assert vectors_of([0, 2, 3, 4, 5, 7]).tolist() == table.column(VECTOR).to_pylist()


def test_dataset_says_whose_vectors_they_are(tmp_path: Path) -> None:
    """Once, in the schema, and not in every row."""
    schema = lance.dataset(dataset_uri(done(str(tmp_path)).folders)).schema

    assert [ID, VECTOR] == schema.names
    assert MODEL.fingerprint.encode() == schema.metadata[FINGERPRINT.encode()]


def test_ids_may_be_strings(tmp_path: Path) -> None:
    """As they were in the input."""
    ids = [f"scene-{number}" for number in range(sum(ROWS))]

    assert [ids[row] for row in (0, 2, 3, 4, 5, 7)] == read(done(str(tmp_path), ids=ids)).column(ID).to_pylist()


def test_dataset_after_a_retry_is_the_only_version(tmp_path: Path) -> None:
    """It has what came; what was there before takes no room any more."""
    store = done(str(tmp_path))
    do(store, 1, [None, None, None])
    write_dataset(store)
    dataset = lance.dataset(dataset_uri(store.folders))

    assert [0, 2, 3, 4, 5, 6, 7] == dataset.to_table().column(ID).to_pylist()
    assert 1 == len(dataset.versions())
    assert 1 == len(list((tmp_path / "vectors.lance" / "data").iterdir()))


def test_what_cannot_be_read_leaves_the_dataset_as_it_was(tmp_path: Path) -> None:
    """A part that is torn ends the run with a line, and readers keep what they had."""
    store = done(str(tmp_path))
    (tmp_path / "vectors" / part_name(1)).write_bytes(b"torn")

    with pytest.raises(BulkError, match=r"vectors\.lance: "):
        write_dataset(store)

    assert [0, 2, 3, 4, 5, 7] == read(store).column(ID).to_pylist()


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    """Data of a dataset that never came to be is no dataset, and goes."""
    store = store_at(str(tmp_path))
    left = tmp_path / "vectors.lance" / "data" / "left.lance"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half of it")
    do(store, 0, [None] * ROWS[0])
    do(store, 1, [None] * ROWS[1])
    write_dataset(store)

    assert list(range(sum(ROWS))) == read(store).column(ID).to_pylist()
    assert not left.exists()


def test_output_without_any_vector_is_an_empty_dataset(tmp_path: Path) -> None:
    """It can be opened like any other."""
    store = store_at(str(tmp_path))
    do(store, 0, [NOT_FOUND] * ROWS[0])
    do(store, 1, [NOT_FOUND] * ROWS[1])
    write_dataset(store)

    assert 0 == len(read(store))
    assert {NOT_FOUND.code} == set(parquet.read_table(tmp_path / "rejects").column(CODE).to_pylist())


@pytest.fixture
def on_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An output on a server of S3's API. Lance finds that by variables, which pyarrow reads at its own start alone."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    where = f"endpoint_override={host}:{port}&scheme=http"
    Place.of(f"s3://tests?{where}&allow_bucket_creation=true").make()
    try:
        yield f"s3://tests/out?{where}"
    finally:
        server.stop()


def test_dataset_lies_on_s3_too(on_s3: str) -> None:
    """Written, replaced and read where the parts are."""
    store = done(on_s3, dtype="float16")
    do(store, 1, [None, None, None])
    write_dataset(store)

    assert [0, 2, 3, 4, 5, 6, 7] == read(store).column(ID).to_pylist()
    assert 1 == len(lance.dataset(dataset_uri(store.folders)).versions())


def test_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what asked for it; the module is not there, as in an environment without it."""
    monkeypatch.setitem(sys.modules, "lance", None)

    with pytest.raises(BulkError, match=r"^--format lance: .*lance") as raised:
        dataset_uri(Folders(Place.of(str(tmp_path))))

    assert 1 == len(str(raised.value).splitlines())


def test_place_that_lance_does_not_know_is_refused() -> None:
    """Not every filesystem of pyarrow and fsspec is one of Lance's."""
    with pytest.raises(BulkError, match="must be on this machine"):
        dataset_uri(Folders(Place.of("memory://out")))


@pytest.mark.parametrize(
    ("filesystem", "path", "uri"),
    [
        pytest.param(fs.LocalFileSystem(), "/folder/out", "/folder/out/vectors.lance", id="this machine"),
        pytest.param(
            fs.S3FileSystem(anonymous=True, region="us-east-1"), "bucket/out", "s3://bucket/out/vectors.lance", id="s3"
        ),
    ],
)
def test_place_has_the_name_that_lance_gives_it(filesystem: fs.FileSystem, path: str, uri: str) -> None:
    """A path here, a URI elsewhere."""
    assert uri == dataset_uri(Folders(Place(filesystem, path)))
