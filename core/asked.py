"""How much each client has asked for, and what of that its limits have refused."""

import threading
from collections import Counter
from collections.abc import Mapping


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

    @property
    def items(self) -> Mapping[str, int]:
        """All that was asked for by those who are let in."""
        with self._lock:
            return dict(self._asked)

    @property
    def limited_items(self) -> Mapping[str, int]:
        """What of that was over a limit, for every client that has asked."""
        with self._lock:
            return {client: self._limited[client] for client in self._asked}
