"""Looks up what waits on a few threads of its own: whoever is free takes all of it, up to a bound, in one question.

So what comes while a question is under way waits for that one at most, and not for a question of each before it.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Wanted = TypeVar("Wanted")

# Each question takes a round trip, and one that hangs its timeout.
_THREADS = 4

# Four times as many is what a process may have in flight, unless it is set higher.
_IN_A_QUESTION = 256


class Lookups(Generic[Wanted]):
    """Thread-safe. `look_up` is called with what waits, oldest first; it does not raise."""

    def __init__(self, look_up: Callable[[Sequence[Wanted]], object]) -> None:
        self._look_up = look_up
        self._lock = threading.Lock()
        self._waiting: list[Wanted] = []
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cache-lookup")

    def add(self, wanted: Sequence[Wanted]) -> None:
        """Have `wanted` looked up soon. Raises `RuntimeError` when closed."""
        with self._lock:
            self._waiting += wanted
        for _ in range(0, len(wanted), _IN_A_QUESTION):
            self._threads.submit(self._take)

    def close(self) -> None:
        """End the questions that are under way; what waits is not looked up."""
        self._threads.shutdown(cancel_futures=True)

    def _take(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting[:_IN_A_QUESTION], self._waiting[_IN_A_QUESTION:]
        # Another thread may have had it with its own.
        if taken:
            self._look_up(taken)
