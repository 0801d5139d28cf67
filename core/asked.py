"""How much each client has asked for, and what of that its limits have refused."""

import threading
from collections import Counter
from collections.abc import Iterator

from core import metrics
from core.metrics import Reading


class Asked:
    """In images and texts, by the client's name. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = Counter[str]()
        self._limited = Counter[str]()

    def note(self, client: str, items: int, *, limited: bool) -> None:
        """One request of so many items."""
        with self._lock:
            self._asked[client] += items
            if limited:
                self._limited[client] += items

    def readings(self) -> Iterator[Reading]:
        """For metrics; what was over a limit, for every client that has asked."""
        with self._lock:
            asked = dict(self._asked)
            limited = {client: self._limited[client] for client in asked}
        yield from metrics.by_label(metrics.CLIENT_ITEMS, asked)
        yield from metrics.by_label(metrics.CLIENT_LIMITED_ITEMS, limited)
