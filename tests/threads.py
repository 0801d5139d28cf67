"""Threads that a test has begun: those of other tests, such as of a client for the whole run, may live beside it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def threads_end(prefix: str) -> Iterator[None]:
    """No thread whose name begins so, and which was not there before, is there after the block."""
    before = set(threading.enumerate())
    yield
    begun = set(threading.enumerate()) - before
    assert [] == [thread.name for thread in begun if thread.name.startswith(prefix)]
