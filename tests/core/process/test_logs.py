"""Log lines: one JSON object each, and of an exception nothing that a stranger could have put there."""

import json
import logging
import sys
from typing import Any

import pytest

from core.process.logs import JsonFormatter


def formatted(error: BaseException | None = None, **extra: Any) -> dict[str, Any]:  # noqa: ANN401
    record = logging.makeLogRecord({"msg": "it failed", "levelno": logging.ERROR, "levelname": "ERROR", **extra})
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    line: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return line


def failing() -> BaseException:
    try:
        int("https://user:pass@10.0.0.7/a.jpg?X-Amz-Signature=abc")
    except ValueError as cause:
        return with_cause(RuntimeError("secret detail"), cause)
    raise AssertionError


def with_cause(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except RuntimeError as raised:
        return raised


def test_extra_fields_are_members() -> None:
    """What a caller brings stands beside time, level, logger and message."""
    line = formatted(request_id="a", batch_size=3)

    assert ("it failed", "ERROR", "a", 3) == (line["message"], line["level"], line["request_id"], line["batch_size"])


@pytest.mark.parametrize(
    "value", [pytest.param("\ud800", id="half a surrogate pair"), pytest.param(10**30, id="a number of 31 digits")]
)
def test_what_a_fast_encoder_refuses_is_logged_too(value: object) -> None:
    """No line is lost for what stands in it."""
    assert value == formatted(value=value)["value"]


def test_exception_is_kinds_and_places() -> None:
    """Where it came from and what kind it was, through all causes."""
    exceptions = formatted(failing())["exceptions"]

    assert ["RuntimeError", "ValueError"] == [exception["kind"] for exception in exceptions]
    assert [True, True] == [
        exception["frames"][-1].startswith("tests/core/process/test_logs.py:") for exception in exceptions
    ]


def test_exception_messages_and_source_lines_stay_out() -> None:
    """They hold whatever a stranger sent."""
    text = json.dumps(formatted(failing()))

    assert [] == [word for word in ("Signature", "10.0.0.7", "secret detail", "Traceback", "raise ") if word in text]


def test_no_exception_no_member() -> None:
    """`exc_info=True` outside of an `except` is harmless."""
    record = logging.makeLogRecord({"msg": "fine", "exc_info": sys.exc_info()})

    assert "exceptions" not in json.loads(JsonFormatter().format(record))
