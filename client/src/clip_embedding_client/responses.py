"""Reads answers: what is not exactly the contract's becomes `WrongResponse`, never a bad vector.

A stranger's words do not get through either: the strings that are kept are short and printable. Unknown members are
not looked at: services and clients of different versions overlap.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_embedding_client.errors import WrongResponse, error_from_wire, printable
from clip_embedding_client.values import Embedding, Health, Outcome, TextItem, Vector

if TYPE_CHECKING:
    from clip_embedding_client.images import LoadedImage

    Item = LoadedImage | TextItem

# Of the length of a vector that was to have norm 1. An engine in float16 keeps three digits; what is further off was
# not normalised, or was damaged.
_NORM_TOLERANCE = 1e-2
# Whoever normalises a vector in float32 squares its numbers. A sum of squares outside of these becomes zero or infinite
# there, and the vector zeros or NaN. Ours is added in float64, which neither can happen to.
_LEAST_SQUARE = float(np.finfo(np.float32).tiny)
_LARGEST_SQUARE = float(np.finfo(np.float32).max)

_MAX_NAME_CHARACTERS = 256
# No model has as many; a number of thousands of digits must not get into a message.
_MOST_DIMENSIONS = 1_000_000
_MAX_WHERE_CHARACTERS = 100


def read_single(answer: object, item: Item, backend: str) -> Embedding:
    """Return the embedding of an answer to one image or text. Raises `WrongResponse`."""
    return _embedding(_Members(answer, item.request_id), _Members(answer, item.request_id), item, backend)


def read_batch(answer: object, items: Sequence[Item], backend: str) -> list[Outcome]:
    """Return one result per item, in their order. Raises `WrongResponse` if they do not line up."""
    whole = _Members(answer, None)
    results = whole.take("results", list)
    if len(results) != len(items):
        raise WrongResponse(f"{len(results)} results for {len(items)} items")
    return [_outcome(result, item, whole, backend) for result, item in zip(results, items, strict=True)]


def read_health(answer: object, backend: str) -> Health:
    """Return the health of an answer to it. Raises `WrongResponse`."""
    members = _Members(answer, None)
    return Health(
        backend=backend,
        status=members.name("status"),
        fingerprint=members.name_or_none("fingerprint"),
        dim=members.positive("dim") if members.has("dim") else None,
        model_name=members.name_or_none("model_name"),
        device=members.name_or_none("device"),
        insecure_auth=members.flag("insecure_auth"),
        body=dict(members.all),
    )


class _Members:
    """The members of an object that a service sent, each of the type that the contract gives it."""

    def __init__(self, answer: object, request_id: str | None) -> None:
        self._request_id = request_id
        if not isinstance(answer, Mapping):
            raise self.wrong("the answer", "is no object")
        self.all: Mapping[str, Any] = answer

    def wrong(self, name: str, what: str) -> WrongResponse:
        return WrongResponse(f"{printable(name, _MAX_WHERE_CHARACTERS)} {what}", request_id=self._request_id)

    def has(self, name: str) -> bool:
        """Whether it is there and not null."""
        return self.all.get(name) is not None

    def take(self, name: str, *types: type) -> Any:  # noqa: ANN401 - one of `types`
        """A bool is no number, and true is no 1."""
        value = self.all.get(name)
        if type(value) not in types:
            raise self.wrong(name, "is missing" if name not in self.all else f"is {type(value).__name__}")
        return value

    def name(self, name: str) -> str:
        value: str = self.take(name, str)
        if not 1 <= len(value) <= _MAX_NAME_CHARACTERS or not value.isprintable():
            raise self.wrong(name, f"must be 1 to {_MAX_NAME_CHARACTERS} printable characters")
        return value

    def name_or_none(self, name: str) -> str | None:
        return self.name(name) if self.has(name) else None

    def positive(self, name: str) -> int:
        value: int = self.take(name, int)
        if not 1 <= value <= _MOST_DIMENSIONS:
            raise self.wrong(name, f"must be from 1 to {_MOST_DIMENSIONS:,}")
        return value

    def flag(self, name: str) -> bool:
        """Absent, it is off."""
        return bool(self.take(name, bool)) if name in self.all else False

    def timings(self) -> dict[str, float]:
        """A step that was not taken (the download of a text) is null or absent."""
        given = _Members(self.take("timings", dict), self._request_id) if self.has("timings") else None
        if given is None:
            return {}
        timings = {}
        for step in given.all:
            if not 1 <= len(step) <= _MAX_NAME_CHARACTERS or not step.isprintable():
                raise given.wrong("a name in timings", f"must be 1 to {_MAX_NAME_CHARACTERS} printable characters")
            if given.has(step):
                milliseconds = given.take(step, int, float)
                # Compared, not converted: JSON's whole numbers may be larger than a float can hold.
                if not -sys.float_info.max <= milliseconds <= sys.float_info.max:
                    raise given.wrong(step, "is not finite")
                timings[step] = float(milliseconds)
        return timings


def _outcome(result: object, item: Item, whole: _Members, backend: str) -> Outcome:
    members = _Members(result, item.request_id)
    if members.all.get("request_id") != item.request_id:
        raise WrongResponse("the results are not in the order of the items")
    if "error" not in members.all:
        return _embedding(members, whole, item, backend)
    error = error_from_wire(members.all["error"])
    if error is None:
        raise WrongResponse("an item's error is not the contract's", request_id=item.request_id)
    return error


def _embedding(members: _Members, whole: _Members, item: Item, backend: str) -> Embedding:
    """`whole` says what is true of the whole answer: for a single item it is the same object."""
    if members.take("request_id", str) != item.request_id:
        raise WrongResponse("the answer belongs to another request", request_id=item.request_id)
    normalized = bool(members.take("normalized", bool))
    if normalized is not item.normalize:
        raise WrongResponse(f"normalized is {normalized}, not what was asked for", request_id=item.request_id)
    return Embedding(
        vector=_vector(members, normalized=normalized, request_id=item.request_id),
        request_id=item.request_id,
        fingerprint=whole.name("fingerprint"),
        normalized=normalized,
        timings=members.timings(),
        truncated=members.flag("truncated"),
        cached=members.flag("cached"),
        backend=backend,
        model_name=whole.name_or_none("model_name"),
        device=whole.name_or_none("device"),
    )


def _vector(members: _Members, *, normalized: bool, request_id: str) -> Vector:
    dim = members.positive("dim")
    vector = _decoded(members.take("embedding", str, list), request_id)
    if vector.shape != (dim,):
        raise WrongResponse(f"the vector has {vector.size} numbers, not {dim}", request_id=request_id)
    if not np.isfinite(vector).all():
        raise WrongResponse("the vector holds numbers that are not finite", request_id=request_id)
    square = float(np.square(vector, dtype=np.float64).sum())
    if not _LEAST_SQUARE <= square <= _LARGEST_SQUARE:
        raise WrongResponse("the vector is zero, or too short or too long to be normalised", request_id=request_id)
    if normalized and abs(square**0.5 - 1) > _NORM_TOLERANCE:
        raise WrongResponse(f"the vector's norm is {square**0.5:.4g}, not 1", request_id=request_id)
    return vector


def _decoded(embedding: str | list[float], request_id: str) -> Vector:
    """Both wire forms: a list of numbers, or the base64 of little-endian float32. The array is the caller's own."""
    if isinstance(embedding, list):
        if any(type(number) not in (int, float) for number in embedding):
            raise WrongResponse("the vector holds what is no number", request_id=request_id)
        # A number beyond float32 becomes infinite, which is refused next, by name and not by a warning.
        with np.errstate(over="ignore"):
            return _array(embedding, request_id)
    try:
        data = base64.b64decode(embedding, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WrongResponse("the vector is not base64", request_id=request_id) from error
    if len(data) % 4:
        raise WrongResponse("the vector's base64 is not whole float32 numbers", request_id=request_id)
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def _array(numbers: list[float], request_id: str) -> Vector:
    try:
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)
    except OverflowError as error:
        raise WrongResponse("the vector holds numbers that are not finite", request_id=request_id) from error
