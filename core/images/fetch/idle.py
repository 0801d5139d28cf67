"""Connections that wait for another image from the same server."""

import threading
import time
from collections.abc import Callable

from core.images.fetch.connection import CheckedConnection

# Long enough for the images of a few requests, too short for a NAT on the way to forget the connection.
MAX_IDLE_S = 30.0


class IdleConnections:
    """Keeps at most `max_connections`, the most recently used ones; thread-safe."""

    def __init__(self, *, max_connections: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_connections = max_connections
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, CheckedConnection]] = []  # (monotonic time of arrival, connection)

    def take(self, origin: tuple[str, str, int]) -> CheckedConnection | None:
        """The latest connection to this origin that the server has not closed, or None."""
        while True:
            arrived_s, connection = self._pop(origin)
            if connection is None:
                return None
            if self._clock() - arrived_s < MAX_IDLE_S and not connection.has_something():
                return connection
            connection.close()

    def put(self, connection: CheckedConnection) -> None:
        """Keep a connection whose last answer was read to its end; closes the oldest one over the limit."""
        with self._lock:
            self._waiting.append((self._clock(), connection))
            oldest = self._waiting.pop(0)[1] if len(self._waiting) > self._max_connections else None
        if oldest is not None:
            oldest.close()

    def close(self) -> None:
        """Close all of them, and from now on every one that comes."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._max_connections = 0
        for _, connection in waiting:
            connection.close()

    def _pop(self, origin: tuple[str, str, int]) -> tuple[float, CheckedConnection | None]:
        with self._lock:
            for index in range(len(self._waiting) - 1, -1, -1):
                if self._waiting[index][1].origin == origin:
                    return self._waiting.pop(index)
        return 0.0, None
