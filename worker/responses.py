"""Reads answers: what is not exactly the contract's becomes `WrongResponse`, never a bad vector."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import ClipClientError, WrongResponse, error_from_wire
from worker.values import Embedding, Health, Vector


class _Wire(BaseModel):
    """Strict, and blind to unknown members: services and clients of different versions overlap."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _WireEmbedding(_Wire):
    request_id: str
    embedding: str | list[float]
    dim: Annotated[int, Field(gt=0)]
    normalized: bool
    timings: dict[str, float] = Field(default_factory=dict)
    truncated: bool = False


class _WireSingle(_WireEmbedding):
    fingerprint: Annotated[str, Field(min_length=1)]


class _WireBatch(_Wire):
    results: list[dict[str, Any]]
    fingerprint: Annotated[str, Field(min_length=1)]


class _WireHealth(_Wire):
    status: str
    fingerprint: str | None = None
    dim: int | None = None
    model_name: str | None = None
    device: str | None = None
    insecure_auth: bool = False


AnyWire = TypeVar("AnyWire", bound=_Wire)


def read_single(answer: object, request_id: str, backend: str) -> Embedding:
    """Return the embedding of an answer to one image or text. Raises `WrongResponse`."""
    wire = _validated(_WireSingle, answer, request_id)
    return _embedding(wire, request_id, wire.fingerprint, backend)


def read_batch(answer: object, request_ids: Sequence[str], backend: str) -> list[Embedding | ClipClientError]:
    """Return one result per request id, in their order. Raises `WrongResponse` if they do not line up."""
    wire = _validated(_WireBatch, answer, None)
    if len(wire.results) != len(request_ids):
        raise WrongResponse(f"{len(wire.results)} results for {len(request_ids)} items")
    pairs = zip(wire.results, request_ids, strict=True)
    return [_item(result, request_id, wire.fingerprint, backend) for result, request_id in pairs]


def read_health(answer: object, backend: str) -> Health:
    """Return the health of an answer to it. Raises `WrongResponse`."""
    wire = _validated(_WireHealth, answer, None)
    return Health(backend=backend, body=dict(answer) if isinstance(answer, dict) else {}, **wire.model_dump())


def _item(result: dict[str, Any], request_id: str, fingerprint: str, backend: str) -> Embedding | ClipClientError:
    if result.get("request_id") != request_id:
        raise WrongResponse("the results are not in the order of the items")
    if "error" not in result:
        return _embedding(_validated(_WireEmbedding, result, request_id), request_id, fingerprint, backend)
    error = error_from_wire(result["error"])
    if error is None:
        raise WrongResponse("an item's error has no code and message", request_id=request_id)
    return error


def _embedding(wire: _WireEmbedding, request_id: str, fingerprint: str, backend: str) -> Embedding:
    if wire.request_id != request_id:
        raise WrongResponse("the answer belongs to another request", request_id=request_id)
    return Embedding(
        vector=_vector(wire, request_id),
        request_id=request_id,
        fingerprint=fingerprint,
        normalized=wire.normalized,
        timings=wire.timings,
        truncated=wire.truncated,
        backend=backend,
    )


def _vector(wire: _WireEmbedding, request_id: str) -> Vector:
    vector = _decoded(wire.embedding, request_id)
    if vector.shape != (wire.dim,):
        raise WrongResponse(f"the vector has {vector.size} numbers, not {wire.dim}", request_id=request_id)
    if not np.isfinite(vector).all():
        raise WrongResponse("the vector holds numbers that are not finite", request_id=request_id)
    return vector


def _decoded(embedding: str | list[float], request_id: str) -> Vector:
    """Both wire forms: a list of numbers, or the base64 of little-endian float32. The array is the caller's own."""
    if isinstance(embedding, list):
        # A number beyond float32 becomes infinite, which is refused next, by name and not by a warning.
        with np.errstate(over="ignore"):
            return np.asarray(embedding, dtype=np.float64).astype(np.float32)
    try:
        data = base64.b64decode(embedding, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WrongResponse("the vector is not base64", request_id=request_id) from error
    if len(data) % 4:
        raise WrongResponse("the vector's base64 is not whole float32 numbers", request_id=request_id)
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def _validated(model: type[AnyWire], answer: object, request_id: str | None) -> AnyWire:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise WrongResponse(f"{where}: {first['msg']}", request_id=request_id) from error
