"""One row of a result: what was given and what came of it, with the same members in JSON and in Parquet."""

from __future__ import annotations

from typing import Any

from clip_embedding_client.commands.inputs import Input, storable
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.values import Outcome

Row = dict[str, Any]
"""`embedding` is a float32 array when the row is made, and absent or None in one that failed, which has `error`."""


def row_of(given: Input, outcome: Outcome) -> Row:
    """`input` is what was given, whole: without it, nobody could tell what a vector is of."""
    place: Row = {
        "kind": given.kind,
        "index": given.index,
        "input": storable(given.value),
        "request_id": outcome.request_id,
    }
    if isinstance(outcome, ClipClientError):
        return place | {"error": {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}}
    return place | {
        "embedding": outcome.vector,
        "dim": outcome.vector.shape[0],
        "normalized": outcome.normalized,
        "truncated": outcome.truncated,
        "fingerprint": outcome.fingerprint,
        "backend": outcome.backend,
    }


def is_of(row: Row, given: Input) -> bool:
    """Whether the row is this input's."""
    return (row.get("kind"), row.get("index"), row.get("input")) == (given.kind, given.index, storable(given.value))
