"""Reads answers: what is not exactly the contract's becomes `WrongResponse`, never a bad vector.

A stranger's words do not get through either: the strings that are kept are short and printable.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from worker.errors import ClipClientError, WrongResponse, error_from_wire, printable
from worker.outcomes import Outcome
from worker.values import Embedding, Health, Item, Vector

# Of the length of a vector that was to have norm 1. An engine in float16 keeps three digits; what is further off was
# not normalised, or was damaged.
_NORM_TOLERANCE = 1e-2
# Whoever normalises a vector in float32 squares its numbers. A sum of squares outside of these becomes zero or infinite
# there, and the vector zeros or NaN. Ours is added in float64, which neither can happen to.
_LEAST_SQUARE = float(np.finfo(np.float32).tiny)
_LARGEST_SQUARE = float(np.finfo(np.float32).max)

_MAX_NAME_CHARACTERS = 256
_MAX_WHERE_CHARACTERS = 100


def _is_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable")
    return value


_Name = Annotated[str, Field(min_length=1, max_length=_MAX_NAME_CHARACTERS), AfterValidator(_is_printable)]


class _Wire(BaseModel):
    """Strict, and blind to unknown members: services and clients of different versions overlap."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _WireEmbedding(_Wire):
    request_id: str
    embedding: str | list[float]
    dim: Annotated[int, Field(gt=0)]
    normalized: bool
    # A step that was not taken (the download of a text) is null or absent.
    timings: dict[_Name, float | None] | None = None
    truncated: bool = False


class _WireAnswer(_Wire):
    fingerprint: _Name
    model_name: _Name | None = None


class _WireSingle(_WireEmbedding, _WireAnswer):
    pass


class _WireBatch(_WireAnswer):
    results: list[dict[str, Any]]


class _WireHealth(_Wire):
    status: _Name
    fingerprint: _Name | None = None
    dim: Annotated[int, Field(gt=0)] | None = None
    model_name: _Name | None = None
    device: _Name | None = None
    insecure_auth: bool = False


AnyWire = TypeVar("AnyWire", bound=_Wire)


def read_single(answer: object, item: Item, backend: str) -> Embedding:
    """Return the embedding of an answer to one image or text. Raises `WrongResponse`."""
    wire = _validated(_WireSingle, answer, item.request_id)
    return _embedding(wire, item, wire, backend)


def read_batch(answer: object, items: Sequence[Item], backend: str) -> list[Outcome]:
    """Return one result per item, in their order. Raises `WrongResponse` if they do not line up."""
    wire = _validated(_WireBatch, answer, None)
    if len(wire.results) != len(items):
        raise WrongResponse(f"{len(wire.results)} results for {len(items)} items")
    return [_item(result, item, wire, backend) for result, item in zip(wire.results, items, strict=True)]


def read_health(answer: object, backend: str) -> Health:
    """Return the health of an answer to it. Raises `WrongResponse`."""
    wire = _validated(_WireHealth, answer, None)
    return Health(backend=backend, body=dict(answer) if isinstance(answer, dict) else {}, **wire.model_dump())


def _item(result: dict[str, Any], item: Item, answer: _WireAnswer, backend: str) -> Embedding | ClipClientError:
    if result.get("request_id") != item.request_id:
        raise WrongResponse("the results are not in the order of the items")
    if "error" not in result:
        return _embedding(_validated(_WireEmbedding, result, item.request_id), item, answer, backend)
    error = error_from_wire(result["error"])
    if error is None:
        raise WrongResponse("an item's error has no code and message", request_id=item.request_id)
    return error


def _embedding(wire: _WireEmbedding, item: Item, answer: _WireAnswer, backend: str) -> Embedding:
    if wire.request_id != item.request_id:
        raise WrongResponse("the answer belongs to another request", request_id=item.request_id)
    if wire.normalized is not item.normalize:
        raise WrongResponse(f"normalized is {wire.normalized}, not what was asked for", request_id=item.request_id)
    return Embedding(
        vector=_vector(wire, item.request_id),
        request_id=item.request_id,
        fingerprint=answer.fingerprint,
        normalized=wire.normalized,
        timings={step: ms for step, ms in (wire.timings or {}).items() if ms is not None},
        truncated=wire.truncated,
        backend=backend,
        model_name=answer.model_name,
    )


def _vector(wire: _WireEmbedding, request_id: str) -> Vector:
    vector = _decoded(wire.embedding, request_id)
    if vector.shape != (wire.dim,):
        raise WrongResponse(f"the vector has {vector.size} numbers, not {wire.dim}", request_id=request_id)
    if not np.isfinite(vector).all():
        raise WrongResponse("the vector holds numbers that are not finite", request_id=request_id)
    square = float(np.square(vector, dtype=np.float64).sum())
    if not _LEAST_SQUARE <= square <= _LARGEST_SQUARE:
        raise WrongResponse("the vector is zero, or too short or too long to be normalised", request_id=request_id)
    if wire.normalized and abs(square**0.5 - 1) > _NORM_TOLERANCE:
        raise WrongResponse(f"the vector's norm is {square**0.5:.4g}, not 1", request_id=request_id)
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
        # The names of members are a stranger's words too.
        where = printable(".".join(str(part) for part in first["loc"]), _MAX_WHERE_CHARACTERS) or "the answer"
        raise WrongResponse(f"{where}: {first['msg']}", request_id=request_id) from error
