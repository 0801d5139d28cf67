"""Strict JSON in, exact vectors out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidJson
from core.wire.strict_json import MAX_STRUCTURE, encode, parse_object


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"a":1,"a":2}', id="duplicate key"),
        pytest.param(b'{"a":{"b":1,"b":1}}', id="duplicate key inside"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":-Infinity}', id="Infinity"),
        pytest.param(b'{"a":"\xff"}', id="not UTF-8"),
        pytest.param('{"a":1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param(b'{"a":' * 50_000, id="nested 50,000 deep"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="lists 100,000 deep"),
        pytest.param(b'{"a":' + b"1" * 101 + b"}", id="a number of 101 digits"),
        pytest.param(b'{"a":[' + b'{"":{}},' * 131_072 + b"0]}", id="a mebibyte of members"),
        pytest.param(b'{"a":[' + b"[]," * MAX_STRUCTURE + b"0]}", id="too many lists"),
        pytest.param(b'{"a":[' + b"0," * MAX_STRUCTURE + b"0]}", id="too many numbers"),
        pytest.param(b'{"a":[' + b'"\\\\",' * MAX_STRUCTURE + b"0]}", id="too many strings that end in a backslash"),
        pytest.param(b'{"a":["' + b'\\\\\\",' * MAX_STRUCTURE + b"]}", id="escaped quotes without an end"),
    ],
)
def test_refuses(body: bytes) -> None:
    """Whatever is not one plain JSON object is INVALID_JSON."""
    with pytest.raises(InvalidJson):
        parse_object(body)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a, b: [c] {d} " * 70_000, id="structure"),
        pytest.param('{"key": "value", "list": [1, 2]} ' * 30_000, id="quotes"),
        pytest.param('\\,\\\\",' * 100_000, id="backslashes"),
    ],
)
def test_strings_may_hold_anything(text: str) -> None:
    """Only structure is counted: a text of a mebibyte of braces and commas is one string."""
    parsed = parse_object(json.dumps({"text": text}).encode())

    assert text == b"".join(parsed["text"].pieces()).decode()


def test_largest_batch_is_below_the_limit() -> None:
    """A thousand items with every member of the contract, unknown ones beside them, are parsed."""
    auth = {"ts": 1703001234, "sig": "0" * 64}
    item = {"text": "a, b", "request_id": "1", "normalize": True, "encoding_format": "float", "auth": auth}
    batch = {"items": [item] * 1000}

    assert batch == parse_object(json.dumps(batch).encode())


@pytest.mark.parametrize(("count", "refused"), [(MAX_STRUCTURE, False), (MAX_STRUCTURE + 1, True)])
def test_limit_of_structure(count: int, refused: bool) -> None:
    """The limit itself is allowed, one more is not, and the message says what is wrong."""
    body = b'{"a":[' + b",".join([b"0"] * (count - 2)) + b"]}"
    if not refused:
        assert count - 2 == len(parse_object(body)["a"])
        return
    with pytest.raises(InvalidJson, match="too many members"):
        parse_object(body)


def test_message_names_the_reason_and_not_the_content() -> None:
    """The message helps the caller and repeats nothing of what was sent."""
    with pytest.raises(InvalidJson) as caught:
        parse_object(b'{"secret-key": 1, "secret-key": 2}')

    assert "the body has a duplicate key" == caught.value.message


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_parse_or_are_refused(body: bytes) -> None:
    """For any bytes: a dict, or InvalidJson."""
    try:
        parsed = parse_object(body)
    except InvalidJson:
        return

    assert isinstance(parsed, dict)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_vectors_survive_exactly(values: list[float]) -> None:
    """A float32 vector read back from the JSON is the same, bit for bit."""
    vector = np.asarray(values, dtype=np.float32)

    parsed = json.loads(encode({"embedding": vector}))["embedding"]

    assert vector.tobytes() == np.asarray(parsed, dtype=np.float32).tobytes()
