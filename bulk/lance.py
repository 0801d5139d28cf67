"""The parts of an output as one Lance dataset beside them, for what searches in Lance. Knows nothing of Ray."""

from collections.abc import Iterator
from datetime import timedelta

import pyarrow as pa
from pyarrow import parquet

from bulk.errors import BulkError
from bulk.inputs import ID
from bulk.outcomes import VECTOR
from bulk.places import Place, explained
from bulk.plan import Folders, part_name
from bulk.store import Store

FORMAT = "lance"
_FOLDER = "vectors.lance"
_COLUMNS = [ID, VECTOR]
# Beside its data a dataset has a folder of the versions that there are, once there is one.
_VERSIONS = "_versions"

# Lance opens files by itself, and by URIs: those of pyarrow's filesystems that both know.
_SCHEMES = {"local": "", "s3": "s3://", "gcs": "gs://"}

# Of which some are in memory at once; 8 MB in float16.
_BATCH_ROWS = 8192


def dataset_uri(folders: Folders) -> str:
    """Where the dataset of an output is, as Lance names it. Raises `BulkError` if there cannot be one."""
    with explained("--format lance"):
        import lance  # noqa: F401 - now, and not when everything is embedded
    scheme = _SCHEMES.get(folders.output.filesystem.type_name)
    if scheme is None:
        raise BulkError(f"--format lance: {folders.output.path} must be on this machine, on S3 or on Google's storage")
    return f"{scheme}{_dataset(folders).path}"


def write_dataset(store: Store) -> None:
    """Make all vectors of the parts the dataset's only version, in their order; until then what was there is there.

    Raises `BulkError`.
    """
    uri = dataset_uri(store.folders)
    import lance

    there = (_dataset(store.folders) / _VERSIONS).exists()
    with explained(uri):
        schema = _schema(store)
        rows = pa.RecordBatchReader.from_batches(schema, _batches(store, schema))
        written = lance.write_dataset(rows, uri, mode="overwrite" if there else "create")
        # Lance keeps what was there before, and what a killed run has left: each as large as all vectors.
        written.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)


def _dataset(folders: Folders) -> Place:
    return folders.output / _FOLDER


def _schema(store: Store) -> pa.Schema:
    """Of the parts, with their fingerprint; that is the same in all rows, and so in none of them."""
    with _opened(store, 0) as first:
        schema: pa.Schema = first.schema_arrow
    return pa.schema([schema.field(name) for name in _COLUMNS], schema.metadata)


def _batches(store: Store, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for part in range(len(store.plan.parts)):
        with _opened(store, part) as opened:
            for batch in opened.iter_batches(_BATCH_ROWS, columns=_COLUMNS):
                yield pa.record_batch(batch.select(_COLUMNS).columns, schema=schema)


def _opened(store: Store, part: int) -> parquet.ParquetFile:
    place = store.vectors / part_name(part)
    return parquet.ParquetFile(place.filesystem.open_input_file(place.path))
