"""What came of the requests of this process, and how long each took: for metrics."""

import threading
from collections import Counter
from collections.abc import Iterator

from core import metrics
from core.metrics import Distribution, Reading
from core.operations import OPERATIONS


class Requests:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered = Counter[tuple[str, str, str]]()
        self._durations = {one.name: Distribution(metrics.REQUEST_SECONDS) for one in OPERATIONS.values()}

    def note(self, path: str, *, client: str, code: str, seconds: float) -> None:
        """One request to the operation at `path`; to what is none of them, none. `client` is empty if nobody knows."""
        operation = OPERATIONS.get(path)
        if operation is None:
            return
        with self._lock:
            self._answered[operation.name, client, code] += 1
            self._durations[operation.name].note(seconds)

    def readings(self) -> Iterator[Reading]:
        """See `core.metrics.Measured`."""
        with self._lock:
            answered = dict(self._answered)
            durations = {name: distribution.copy() for name, distribution in self._durations.items()}
        for labels, count in answered.items():
            yield Reading(metrics.REQUESTS, labels, count)
        for name, distribution in durations.items():
            yield Reading(metrics.REQUEST_SECONDS, (name,), distribution)
