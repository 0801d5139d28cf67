"""Takes the long strings out of a large JSON text, so that the parser gets little and holds nobody up.

An image in base64 is 14 megabytes that hold no structure. The parser would look at each character, make a copy, and
hold the interpreter's lock all the while. Here no call works on more than a window, and what is longest is not copied.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

# One call of the C library works on no more than that: a fraction of a millisecond, then the hub may have its turn.
WINDOW_BYTES = 262_144

# Longer ones are taken out. There may be 16,384 strings in a body, and they must not add up to much.
_SHORT_BYTES = 1024

# Ten thousand characters, the longest text, are 120,000 bytes when each is written as a pair of \uXXXX.
_STR_BYTES = 131_072

# A place holder is this and a number. A string that begins with it, or with a backslash, which could hide it, is taken
# out whatever its length: so what begins with it in the end is a place holder.
_MARK = b"~"

_QUOTE, _BACKSLASH = b'"', b"\\"
_UNESCAPED_AND_ESCAPED = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
# The same, where no escape lies across the end; nor a pair of them that is one character.
_WHOLE_ESCAPES = re.compile(
    rb'(?:[^"\\]++|\\[^u]|\\u(?![dD][89abAB]).{4}|\\u[dD][89abAB]..(?=.{6})(?:\\u[dD][c-fC-F]..)?)*+', re.DOTALL
)
_FIRST_PRINTABLE = 0x20


class NotJson(ValueError):
    """No JSON can have this."""


class TooMuch(ValueError):
    """It may be JSON, and is more of it than is parsed; the message says of what."""


@dataclass(frozen=True, slots=True, eq=False)
class LongString:
    """A string of more than 128 KiB, as its UTF-8 bytes. It holds the whole body that it came in."""

    utf8: memoryview

    def startswith(self, prefix: str) -> bool:
        """As of `str`; the prefix in ASCII."""
        return bytes(self.utf8[: len(prefix)]) == prefix.encode()

    def partition(self, separator: str) -> "tuple[str, str, LongString]":
        """As of `str`, for one that comes early: none is found behind the first thousand bytes."""
        head = bytes(self.utf8[:_SHORT_BYTES])
        before, found, _ = head.partition(separator.encode())
        end = len(before) + len(found)
        return before.decode(errors="replace"), found.decode(), LongString(self.utf8[end:])

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in order, a window at a time."""
        for begin in range(0, len(self.utf8), WINDOW_BYTES):
            yield self.utf8[begin : begin + WINDOW_BYTES]


@dataclass(frozen=True, slots=True)
class Cut:
    """A JSON text whose long strings are place holders, and what they stand for."""

    text: bytes
    strings: list[str | LongString] = field(default_factory=list)

    def restored(self, parsed: str) -> str | LongString:
        """What a string of the parsed text was."""
        return self.strings[int(parsed[len(_MARK) :])] if parsed.startswith(_MARK.decode()) else parsed


def cut(body: bytes | bytearray, *, max_text_bytes: int, max_strings: int, short_bytes: int = _SHORT_BYTES) -> Cut:
    """Take out what is longer than `short_bytes`. What is left is as much JSON as `body` was.

    Raises `NotJson`, and `TooMuch` when there are more strings, or more text is left, than is allowed.
    """
    kept: list[bytes] = []
    kept_bytes = 0
    strings: list[str | LongString] = []
    position = 0
    for _ in range(max_strings + 1):
        begin = _find_quote(body, position, min(len(body), position + max_text_bytes))
        if begin is None:
            break
        end, escaped = _end_of_string(body, begin + 1)
        kept.append(bytes(body[position : begin + 1]))
        if end - begin > short_bytes or body[begin + 1 : begin + 2] in (_MARK, _BACKSLASH):
            kept.append(b"%s%d" % (_MARK, len(strings)))
            strings.append(_string(body, begin + 1, end, escaped=escaped))
        else:
            kept.append(bytes(body[begin + 1 : end]))
        kept.append(_QUOTE)
        kept_bytes += sum(map(len, kept[-3:]))
        if kept_bytes > max_text_bytes:
            break
        position = end + 1
    else:
        raise TooMuch("too many strings")
    if kept_bytes + len(body) - position > max_text_bytes:
        raise TooMuch("too much beside its long strings")
    kept.append(bytes(body[position:]))
    return Cut(b"".join(kept), strings)


def _find_quote(body: bytes | bytearray, begin: int, end: int) -> int | None:
    for window in range(begin, end, WINDOW_BYTES):
        found = body.find(_QUOTE, window, min(end, window + WINDOW_BYTES))
        if found >= 0:
            return found
    return None


def _end_of_string(body: bytes | bytearray, begin: int) -> tuple[int, bool]:
    """Where the string ends that begins there, and whether it has escapes. Raises `NotJson` when it does not end."""
    position, escaped = begin, False
    while position < len(body):
        window = min(len(body), position + WINDOW_BYTES)
        quote = body.find(_QUOTE, position, window)
        stop = window if quote < 0 else quote
        backslash = body.find(_BACKSLASH, position, stop)
        if backslash < 0:
            if quote >= 0:
                return quote, escaped
            position = stop
            continue
        escaped = True
        # Behind it, and behind all others of this window: one with its character may lie across the end.
        matched = _UNESCAPED_AND_ESCAPED.match(body, backslash, min(len(body), backslash + WINDOW_BYTES))
        position = matched.end() if matched else backslash
        if position == backslash:
            break
        if body[position : position + 1] == _QUOTE:
            return position, escaped
    raise NotJson("a string without an end")


def _string(body: bytes | bytearray, begin: int, end: int, *, escaped: bool) -> str | LongString:
    if end - begin <= _STR_BYTES:
        return _parsed(body[begin:end])
    if escaped:
        whole = bytearray()
        for piece in _between_escapes(body, begin, end):
            whole += _parsed(piece).encode("utf-8", "surrogatepass")
        return LongString(memoryview(whole))
    string = LongString(memoryview(body)[begin:end])
    _check(string)
    return string


def _parsed(literal: bytes | bytearray) -> str:
    """What stands between the quotes of a JSON text."""
    try:
        # Decoded here: given bytes, the parser would guess at the encoding and let halves of pairs pass.
        parsed: str = json.loads(f'"{literal.decode()}"')
    except ValueError as error:
        raise NotJson("a string that JSON does not have") from error
    return parsed


def _between_escapes(body: bytes | bytearray, begin: int, end: int) -> Iterator[bytes | bytearray]:
    """Cut a string where no escape and no character lies across."""
    while end - begin > _STR_BYTES:
        matched = _WHOLE_ESCAPES.match(body, begin, begin + _STR_BYTES)
        stop = matched.end() if matched else begin
        while stop > begin and _continues_character(body[stop]):
            stop -= 1
        if stop == begin:
            raise NotJson("a string that is not UTF-8")
        yield body[begin:stop]
        begin = stop
    yield body[begin:end]


def _continues_character(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def _check(string: LongString) -> None:
    """Raises `NotJson` for control characters and for what is not UTF-8, as the parser would."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in string.pieces():
            if np.frombuffer(piece, dtype=np.uint8).min() < _FIRST_PRINTABLE:
                raise NotJson("a control character in a string")
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise NotJson("a string that is not UTF-8") from error
