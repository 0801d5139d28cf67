"""What a test has had logged. Threads of other tests, and asyncio, may write at any time, and at DEBUG they do."""

import logging
import threading
from collections.abc import Iterable

import pytest


def records_of(caplog: pytest.LogCaptureFixture, *loggers: str) -> list[logging.LogRecord]:
    """Those of these loggers, and of loggers below them."""
    return [one for one in caplog.records if any(f"{one.name}.".startswith(f"{name}.") for name in loggers)]


def written_here(records: Iterable[logging.LogRecord]) -> list[logging.LogRecord]:
    """Those of this thread: for what does its work on the thread of whoever asks."""
    return [one for one in records if one.thread == threading.get_ident() and one.name != "asyncio"]


def other_threads() -> set[int | None]:
    """Those that are there before a test has begun any."""
    return {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
