"""JSON in and out: strict when reading what strangers send, fast when writing vectors."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

from core.errors import InvalidJson


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a UTF-8 JSON object. Raises `InvalidJson` on anything else.

    Stricter than `json.loads`: duplicate keys, NaN and Infinity are refused, because two readers could
    disagree on what they mean (which of two `image_url` was signed?).
    """
    try:
        parsed = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidJson("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidJson(_reason(error)) from error
    if not isinstance(parsed, dict):
        raise InvalidJson("the body is not a JSON object")
    return parsed


def encode(body: Mapping[str, Any]) -> bytes:
    """Write `body` as JSON; float32 arrays become lists with the shortest digits that give them back."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


class _Refused(ValueError):
    """A rule of ours, not of the JSON grammar, was broken; its message may be shown."""


def _reason(error: ValueError) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"the body is not JSON: {error.msg} at character {error.pos}"
    return "the body is not JSON"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("the body has a duplicate key")
    return members


def _refuse_constant(_name: str) -> NoReturn:
    raise _Refused("the body holds NaN or Infinity")
