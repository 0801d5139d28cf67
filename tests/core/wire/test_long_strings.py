"""Cutting long strings out of JSON and parsing the rest is parsing."""

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors import InvalidJson
from core.wire import long_strings, strict_json
from core.wire.long_strings import LongString, NotJson, TooMuch, cut
from core.wire.strict_json import MAX_STRUCTURE, MAX_TEXT_BYTES, SMALL_BYTES, parse_object

AMPLE = 10_000_000

STRINGS = st.text(max_size=30) | st.sampled_from(["~0", "~1", "~", "\\", "\\~0", '"', "~" * 20, "\ud83d", "é😀" * 8])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=12,
)


def parsed_in_pieces(body: bytes, short_bytes: int) -> Any:  # noqa: ANN401 - any JSON
    """As `parse_object` does it, and with shorter strings taken out than it would."""
    found = cut(body, max_text_bytes=AMPLE, max_strings=AMPLE, short_bytes=short_bytes)
    return strict_json._parse_cut(found)


@given(st.dictionaries(STRINGS, JSON, max_size=4), st.booleans(), st.integers(0, 20))
@example({"a": ["~0", ["~1", {"~2": "~3"}]]}, True, 0)
def test_any_object_is_the_same_cut_or_whole(value: dict[str, Any], ascii_only: bool, short_bytes: int) -> None:
    """Names and values, escapes and what looks like a place holder: what comes out is what went in."""
    body = json.dumps(value, ensure_ascii=ascii_only, indent=1).encode("utf-8", "surrogatepass")
    try:
        whole = json.loads(body.decode())
    except UnicodeDecodeError:
        with pytest.raises((InvalidJson, NotJson)):
            parsed_in_pieces(body, short_bytes)
        return

    assert whole == parsed_in_pieces(body, short_bytes)


@given(st.binary(max_size=200), st.integers(0, 20))
@example(b'{"a":"\\', 0)
@example(b'{"\\u007e0":"\\u007e0"}', 20)
@example(b'{"a":"\\u12', 0)
def test_any_bytes_parse_or_are_refused_cut_or_whole(inner: bytes, short_bytes: int) -> None:
    """Both ways refuse the same."""
    for body in (inner, b'{"a":' + inner + b"}", b'{"a":"' + inner + b'"}'):
        try:
            whole: object = strict_json._parse(body, strict_json._unique, is_whole=True)
        except InvalidJson:
            whole = None
        try:
            pieces = parsed_in_pieces(body, short_bytes)
        except (InvalidJson, NotJson):
            pieces = None

        assert whole == pieces


LONG = base64.b64encode(bytes(range(256)) * 1200).decode()


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        pytest.param(LONG, LONG, id="base64"),
        pytest.param(LONG.replace("/", "\\/"), LONG, id="slashes escaped, as PHP does"),
        pytest.param("\\/" * 400_000, "/" * 400_000, id="nothing but escapes"),
        pytest.param("\\ud83d\\ude00" * 50_000, "😀" * 50_000, id="pairs of escapes"),
        pytest.param("\\\\\\u00e9" * 50_000, "\\é" * 50_000, id="backslashes"),
        pytest.param("x" + "\\ud83dx\\\\ud83d" * 30_000, "x" + "\ud83dx\\ud83d" * 30_000, id="half of a pair"),
        pytest.param("é😀" * 100_000, "é😀" * 100_000, id="UTF-8"),
        pytest.param("\\né😀" * 100_000, "\né😀" * 100_000, id="UTF-8 with escapes"),
    ],
)
def test_long_string_is_what_it_was(literal: str, text: str) -> None:
    """Whatever it holds, wherever it is cut into windows, and without the rest of its body."""
    for shift in range(7):
        value = parse_object(f'{{"a": "{"x" * shift}{literal}", "b": [1, "c"]}}'.encode())
        long = value.pop("a")

        assert {"b": [1, "c"]} == value
        assert isinstance(long, LongString)
        assert max(len(piece) for piece in long.pieces()) <= long_strings.WINDOW_BYTES
        assert "x" * shift + text == b"".join(long.pieces()).decode("utf-8", "surrogatepass")


@pytest.mark.parametrize("ending", [pytest.param(b'"}', id="ended"), pytest.param(b"", id="cut off")])
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"\n", id="line break"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(b"\xc3", id="half of a character"),
        pytest.param(b"\\x", id="no such escape"),
        pytest.param(b"\\u12x", id="half of an escape"),
        pytest.param(b"\x80" * 300_000, id="no character begins"),
    ],
)
def test_what_is_no_string_is_refused_in_a_long_one(bad: bytes, ending: bytes) -> None:
    """Also where nobody would look at it: two readers would disagree about what was sent."""
    for before in (LONG.encode(), b"\\/" * 200_000):
        for after in (b"", LONG.encode()):
            with pytest.raises(InvalidJson):
                parse_object(b'{"ignored":"' + before + bad + after + ending)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        pytest.param(b" " * 3_000_000, "too much beside its long strings", id="spaces"),
        pytest.param(b'"a":1,' + b" " * 3_000_000, "too much beside its long strings", id="spaces behind a member"),
        pytest.param(b'"",' * 20_000 + b'"' + b"x" * 65_536 + b'"', "too many", id="strings"),
        pytest.param(b'"' + b"x" * 200_000 + b'":1', "name of a member", id="a name"),
        pytest.param(b'"a":1,"a":"' + b"x" * 200_000 + b'"', "duplicate", id="one name twice"),
    ],
)
def test_what_would_hold_the_parser_up_is_refused(inner: bytes, message: str) -> None:
    """However large a body may be, there is little of it to parse."""
    with pytest.raises(InvalidJson, match=message):
        parse_object(b"{" + inner + b"}")


def test_largest_batch_of_texts_is_below_the_limits() -> None:
    """256 texts of ten thousand characters, each an escape, with every member of the contract."""
    auth = {"ts": 1703001234, "sig": "0" * 64}
    items = [{"text": "あ" * 10_000, "request_id": "é" * 128, "normalize": True, "auth": auth} for _ in range(256)]

    assert {"items": items} == parse_object(json.dumps({"items": items}).encode())


def test_limits_of_cut() -> None:
    """As much as is allowed is taken, and no byte and no string more."""
    body = b'{"a":"b"}'

    assert body == cut(body, max_text_bytes=len(body), max_strings=2).text
    with pytest.raises(TooMuch):
        cut(body, max_text_bytes=len(body) - 1, max_strings=2)
    with pytest.raises(TooMuch):
        cut(body, max_text_bytes=len(body), max_strings=1)
    assert SMALL_BYTES < MAX_TEXT_BYTES
    assert MAX_STRUCTURE < SMALL_BYTES
