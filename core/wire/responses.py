"""The bodies of the wire contract, as plain dicts whose vectors are still float32 arrays (or base64)."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.embedding import Embedding, Vector
from core.errors import ServiceError
from core.wire.requests import EncodingFormat, ImageItem, TextItem

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What every answer says about where its vectors come from; `source` is the hub id, or the model's name."""

    model_name: str
    pretrained: str
    device: str
    dtype: str
    engine: str
    dim: int
    fingerprint: str
    source: str

    def for_response(self) -> Body:
        """The part that goes into each answer."""
        return {
            "model_name": self.model_name,
            "pretrained": self.pretrained,
            "device": self.device,
            "fingerprint": self.fingerprint,
        }


def embedding_body(request_id: str, embedding: Embedding, *, normalized: bool, encoding: EncodingFormat | None) -> Body:
    """One vector, as it stands alone and inside a batch."""
    body: Body = {
        "request_id": request_id,
        "embedding": encoded_vector(embedding.vector, encoding),
        "dim": embedding.vector.shape[0],
        "normalized": normalized,
        "timings": embedding.timings,
    }
    if embedding.truncated:
        body["truncated"] = True
    if embedding.cached:
        body["cached"] = True
    return body


def text_body(request_id: str, embedding: Embedding, *, normalized: bool, encoding: EncodingFormat | None) -> Body:
    """Like `embedding_body`. Clients of the system before read `download_ms` of every answer: for a text it is null."""
    body = embedding_body(request_id, embedding, normalized=normalized, encoding=encoding)
    return body | {"timings": {"download_ms": None, **embedding.timings}}


def item_body(item: ImageItem | TextItem, result: Embedding | ServiceError, default: EncodingFormat | None) -> Body:
    """One item of a batch: a success or an error in its place."""
    if isinstance(result, ServiceError):
        return {"request_id": item.request_id, **error_body(result, item.request_id)}
    write = text_body if isinstance(item, TextItem) else embedding_body
    return write(item.request_id, result, normalized=item.normalize, encoding=item.encoding_format or default)


def batch_timings(
    results: Sequence[Embedding | ServiceError], total_ms: float, steps: Sequence[str]
) -> dict[str, float]:
    """Milliseconds of a whole batch. Its downloads run side by side and its items share forward passes, so the total
    of each of the `steps` is the longest of the items', not the sum."""
    timings = [result.timings for result in results if isinstance(result, Embedding)]
    # An image that was sent has no time of its download.
    longest = {f"total_{step}": max((timing.get(step, 0.0) for timing in timings), default=0.0) for step in steps}
    return {**longest, "total_ms": round(total_ms, 3)}


def error_body(error: ServiceError, request_id: str) -> Body:
    """The one shape of every error."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "request_id": request_id,
            "retryable": error.retryable,
        }
    }


def encoded_vector(vector: Vector, encoding: EncodingFormat | None) -> Vector | str:
    """What stands for a vector: itself, or the base64 of its little-endian float32 values."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector
