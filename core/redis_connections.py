"""Connections to a Redis whose answers have an end, in time and in bytes, whatever that server does.

The library's own timeout is for each piece of an answer, and it reads as much as an answer announces.
"""

import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

SCHEMES = ("redis", "rediss", "redis+unix")

# What the library raises where something else than a Redis answers, or the name of the host is none.
NOT_REDIS = (ValueError, TypeError, OSError)

Received = TypeVar("Received", bytes, int)


class _BoundedSocket:
    """A connection's socket: each question begins the time and the bytes of its answer anew."""

    def __init__(self, connected: socket.socket, timeout_s: float, max_answer_bytes: int) -> None:
        self._connected = connected
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._only_looks = False
        self._begin()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the socket's own
        return getattr(self._connected, name)

    def sendall(self, data: bytes) -> None:
        self._begin()
        self._connected.settimeout(self._timeout_s)
        self._connected.sendall(data)

    def settimeout(self, seconds: float | None) -> None:
        """Without time to wait the library looks whether something has come. All other times are this class's."""
        self._only_looks = seconds == 0

    def recv(self, size: int) -> bytes:
        return self._received(lambda: self._connected.recv(size))

    def recv_into(self, buffer: Any) -> int:  # noqa: ANN401 - whatever takes bytes
        return self._received(lambda: self._connected.recv_into(buffer))

    def _begin(self) -> None:
        self._ends_s = time.monotonic() + self._timeout_s
        self._left_bytes = self._max_answer_bytes

    def _received(self, receive: Callable[[], Received]) -> Received:
        left_s = self._ends_s - time.monotonic()
        if not self._only_looks and left_s <= 0:
            raise TimeoutError
        self._connected.settimeout(0 if self._only_looks else left_s)
        received = receive()
        self._left_bytes -= received if isinstance(received, int) else len(received)
        if self._left_bytes < 0:
            raise OSError("the answer is longer than any to such a question")
        return received


class _Bounded:
    """A connection of the library's, of whatever kind, with such a socket."""

    def __init__(self, *, answer_within_s: float, max_answer_bytes: int, **options: Any) -> None:  # noqa: ANN401 - the library's
        super().__init__(**options)
        self._answer_within_s = answer_within_s
        self._max_answer_bytes = max_answer_bytes

    def _connect(self) -> _BoundedSocket:
        connected: socket.socket = super()._connect()  # type: ignore[misc]
        return _BoundedSocket(connected, self._answer_within_s, self._max_answer_bytes)


class _Tcp(_Bounded, Connection):
    pass


class _Tls(_Bounded, SSLConnection):
    pass


class _Unix(_Bounded, UnixDomainSocketConnection):
    pass


_KINDS = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def open_pool(address: str, *, timeout_s: float, max_answer_bytes: int) -> ConnectionPool:
    """Connects to nothing yet. `timeout_s` is for connecting, and for each answer as a whole, as is `max_answer_bytes`.

    Raises `ValueError` for an address that cannot be read.
    """
    if urlsplit(address).scheme not in SCHEMES:
        raise ValueError("another scheme")
    pool = ConnectionPool.from_url(address.replace("redis+unix:", "unix:", 1))
    if pool.connection_class not in _KINDS:
        raise ValueError("an option that names another kind of connection")
    pool.connection_class = _KINDS[pool.connection_class]
    # Over what the address says: nothing in it makes a request wait longer, or values anything but bytes.
    pool.connection_kwargs |= {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "answer_within_s": timeout_s,
        "max_answer_bytes": max_answer_bytes,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "decode_responses": False,
    }
    return pool
