"""Strict JSON in, exact vectors out."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidJson
from core.wire.strict_json import encode, parse_object


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
        pytest.param(b'{"a":' + b"1" * 5_000 + b"}", id="a number of 5,000 digits"),
    ],
)
def test_refuses(body: bytes) -> None:
    """Whatever is not one plain JSON object is INVALID_JSON."""
    with pytest.raises(InvalidJson):
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
