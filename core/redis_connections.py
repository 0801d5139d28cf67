"""Connections to a Redis that cost no more than they may, in time and in bytes, whatever is behind its name.

The library's own timeout is for each piece of an answer and for no lookup, and it reads as much as an answer announces.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
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


class _Name:
    """The name of a server: one lookup at a time, however many wait for it.

    getaddrinfo cannot be interrupted. Who has waited long enough leaves it to its thread, and whoever comes then waits
    for the same one.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._lock = threading.Lock()
        self._lookup: Future[Sequence[str]] | None = None

    def addresses(self, within_s: float) -> Sequence[str]:
        """Numbers, those first that the system prefers. Raises `TimeoutError`, and what getaddrinfo raises."""
        with self._lock:
            lookup = self._lookup = self._lookup or self._begin()
        return lookup.result(within_s)

    def _begin(self) -> Future[Sequence[str]]:
        lookup: Future[Sequence[str]] = Future()
        # A daemon: the threads of an executor are joined at exit, and a hung lookup would hold the process.
        thread = threading.Thread(target=self._look_up, args=(lookup,), name="redis-lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError("no thread could be started for the lookup") from error
        return lookup

    def _look_up(self, lookup: Future[Sequence[str]]) -> None:
        try:
            answers = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except Exception as error:  # raised again by whoever waits
            self._end()
            lookup.set_exception(error)
        else:
            self._end()
            lookup.set_result([str(answer[4][0]) for answer in answers])

    def _end(self) -> None:
        """An answer is for those who wait: the next connection may be made when the server has moved."""
        with self._lock:
            self._lookup = None


class _Named(Connection):
    """Of its own class, because TLS is put over what this connects, and still needs the name then."""

    socket_connect_timeout: float

    def __init__(self, *, server_name: _Name, **options: Any) -> None:  # noqa: ANN401 - the library's
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._server_name = server_name

    def _connect(self) -> Any:  # noqa: ANN401 - a socket, of TCP or, where this is called, of TLS
        host, within_s = self.host, self.socket_connect_timeout
        ends_s = time.monotonic() + within_s
        refused = OSError("the name has no address")
        try:
            for address in self._server_name.addresses(within_s):
                self.host = address
                self.socket_connect_timeout = ends_s - time.monotonic()
                if self.socket_connect_timeout <= 0:
                    raise TimeoutError
                try:
                    return super()._connect()  # type: ignore[no-untyped-call]
                except OSError as error:
                    refused = error
            raise refused
        finally:
            self.host, self.socket_connect_timeout = host, within_s


class _Bounded:
    """A connection of the library's, of whatever kind, with such a socket."""

    def __init__(self, *, answer_within_s: float, max_answer_bytes: int, **options: Any) -> None:  # noqa: ANN401 - the library's
        super().__init__(**options)
        self._answer_within_s = answer_within_s
        self._max_answer_bytes = max_answer_bytes

    def _connect(self) -> _BoundedSocket:
        connected: socket.socket = super()._connect()  # type: ignore[misc]
        return _BoundedSocket(connected, self._answer_within_s, self._max_answer_bytes)


class _Tcp(_Bounded, _Named):
    pass


class _Tls(_Bounded, SSLConnection, _Named):
    pass


class _Unix(_Bounded, UnixDomainSocketConnection):
    pass


_KINDS = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def open_pool(address: str, *, timeout_s: float, max_answer_bytes: int) -> ConnectionPool:
    """Connects to nothing yet. `timeout_s` is for connecting, the lookup of the server's name included, and for each
    answer as a whole, as is `max_answer_bytes`.

    Raises `ValueError` for an address that cannot be read.
    """
    if urlsplit(address).scheme not in SCHEMES:
        raise ValueError("another scheme")
    pool = ConnectionPool.from_url(address.replace("redis+unix:", "unix:", 1))
    if pool.connection_class not in _KINDS:
        raise ValueError("an option that names another kind of connection")
    pool.connection_class = _KINDS[pool.connection_class]
    if issubclass(pool.connection_class, _Named):
        options = pool.connection_kwargs
        options["server_name"] = _Name(options.get("host", "localhost"), options.get("port", 6379))
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
