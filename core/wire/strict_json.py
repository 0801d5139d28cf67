"""JSON in and out: strict when reading what strangers send, fast when writing vectors."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import orjson

from core.errors import InvalidJson
from core.wire.long_strings import Cut, NotJson, TooMuch, cut

# What a body may hold of `{`, `[`, `,` and `:` outside its strings. An item of a batch has 16 (two objects and seven
# members), so this is a thousand items; more of them cost the parser 100 ms per megabyte, before any check of ours.
MAX_STRUCTURE = 16_384

# Larger bodies are parsed without their long strings, and what is left of them is at most this: more than 256 texts and
# sixteen URLs need, and two milliseconds of the parser.
SMALL_BYTES = 65_536
MAX_TEXT_BYTES = 2_097_152

# Reading a number takes time with the square of its digits, and nothing on the wire has more than ten.
MAX_DIGITS = 100


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """Parse a UTF-8 JSON object. Raises `InvalidJson` on anything else.

    Stricter than `json.loads`: duplicate keys, NaN and Infinity are refused, because two readers could
    disagree on what they mean (which of two `image_url` was signed?). What is large in structure is refused before it
    is parsed: a mebibyte takes milliseconds, whatever it holds. In a large body a string of more than 128 KiB is a
    `LongString`.
    """
    if len(body) <= SMALL_BYTES:
        return _parse(bytes(body), _unique, is_whole=True)
    return _parse_cut(_cut(body))


def _cut(body: bytes | bytearray) -> Cut:
    try:
        return cut(body, max_text_bytes=MAX_TEXT_BYTES, max_strings=MAX_STRUCTURE + 1)
    except NotJson as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error
    except TooMuch as error:
        raise InvalidJson(f"the body has {error}") from error


def _parse_cut(body: Cut) -> dict[str, Any]:
    def restored(value: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, str):
            return body.restored(value)
        # What is in an object has been restored with that.
        return [restored(element) for element in value] if isinstance(value, list) else value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = _unique([(restored(name), restored(value)) for name, value in pairs])
        if not all(isinstance(name, str) for name in members):
            raise _Refused("the body has a name of a member that is too long")
        return members

    return _parse(body.text, unique, is_whole=False)


def _parse(
    body: bytes, make_object: Callable[[list[tuple[str, Any]]], dict[str, Any]], *, is_whole: bool
) -> dict[str, Any]:
    if _structure(body) > MAX_STRUCTURE and _structure(_without_strings(body)) > MAX_STRUCTURE:
        raise InvalidJson("the body has too many members or elements")
    try:
        parsed = json.loads(
            body.decode(), object_pairs_hook=make_object, parse_constant=_refuse_constant, parse_int=_short_int
        )
    except RecursionError as error:
        raise InvalidJson("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidJson(_reason(error, is_whole=is_whole)) from error
    if not isinstance(parsed, dict):
        raise InvalidJson("the body is not a JSON object")
    return parsed


def encode(body: Mapping[str, Any]) -> bytes:
    """Write `body` as JSON; float32 arrays become lists with the shortest digits that give them back."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _structure(text: bytes) -> int:
    """Count what opens, joins or names values."""
    return len(text) - len(text.translate(None, b"{[,:"))


def _without_strings(body: bytes) -> bytes:
    """`body` less its strings, up to as many of them as it may have; the rest stays, and is over the limit anyway."""
    # Without escapes each quote begins or ends a string.
    pieces = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"', 2 * MAX_STRUCTURE)
    return b"".join(pieces[::2])


class _Refused(ValueError):
    """A rule of ours, not of the JSON grammar, was broken; its message may be shown."""


def _reason(error: ValueError, *, is_whole: bool) -> str:
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        where = f" at character {error.pos}" if is_whole else ""
        return f"the body is not JSON: {error.msg}{where}"
    return "the body is not JSON"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("the body has a duplicate key")
    return members


def _refuse_constant(_name: str) -> NoReturn:
    raise _Refused("the body holds NaN or Infinity")


def _short_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Refused("the body has a number of too many digits")
    return int(digits)
