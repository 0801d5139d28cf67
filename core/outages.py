"""When a store that is away is asked again, and what of its silence is news.

Knows no store: it is told what became of each question.
"""

import threading
import time
from collections.abc import Callable

# While the store is away one request in this time asks it, and the others go on without.
ASK_AGAIN_S = 1.0


class Outages:
    """Whether the store is asked, and when an outage begins and ends. Thread-safe.

    Answers to questions of before the last change change nothing: there may be one for each running request.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._changes = 0
        self._lost_s: float | None = None
        self._ask_at_s = 0.0

    def begin(self) -> int | None:
        """Return the ticket of a question, None if it is not to be asked."""
        with self._lock:
            if self._lost_s is not None:
                now_s = self._clock()
                if now_s < self._ask_at_s:
                    return None
                self._ask_at_s = now_s + ASK_AGAIN_S
            return self._changes

    def failed(self, ticket: int) -> bool:
        """Whether an outage begins with this."""
        with self._lock:
            if self._lost_s is not None or ticket != self._changes:
                return False
            self._changes += 1
            self._lost_s = self._clock()
            self._ask_at_s = self._lost_s + ASK_AGAIN_S
            return True

    def answered(self, ticket: int) -> float | None:
        """Return how many seconds an outage has lasted that ends with this."""
        with self._lock:
            if self._lost_s is None or ticket != self._changes:
                return None
            self._changes += 1
            lasted_s = self._clock() - self._lost_s
            self._lost_s = None
            return lasted_s
