"""How many bytes of one kind may be held at once; who would go over it is refused, nobody waits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core import metrics
from core.errors import Overloaded
from core.metrics import Reading


class ByteBudget:
    """Thread-safe. `used_bytes` never exceeds `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self.used_bytes = 0

    @contextmanager
    def lease(self, first_bytes: int = 0) -> Iterator["Lease"]:
        """Hold `first_bytes`, and what is added later, until the block ends. Raises `Overloaded` at once."""
        lease = Lease(self)
        lease.add(first_bytes)
        try:
            yield lease
        finally:
            self._change(-lease.held_bytes)

    def readings(self, kind: str) -> Iterator[Reading]:
        """How much of it is used, for metrics, which call it `kind`."""
        yield Reading(metrics.BYTES_IN_FLIGHT, (kind,), self.used_bytes)
        yield Reading(metrics.BYTES_LIMIT, (kind,), self._max_bytes)

    def _change(self, difference: int) -> None:
        with self._lock:
            if difference > 0 and self.used_bytes + difference > self._max_bytes:
                raise Overloaded
            self.used_bytes += difference


class Lease:
    """One holder's share of a budget; used by one thread at a time."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held_bytes = 0

    def add(self, count: int) -> None:
        """Hold `count` bytes more. Raises `Overloaded` when the budget has not that many left."""
        if count:
            self._budget._change(count)
            self.held_bytes += count
