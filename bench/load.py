"""Closed-loop clients that cost the measured machine little: one thread, one selector, kept-alive connections.

A client sends its next request when its last is answered. An answer is counted, not parsed. Runs in a process of
its own and imports neither numpy nor requests.
"""

import re
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

from bench.work import Request, Work

_SILENCE_S = 150.0
_RECEIVE_BYTES = 262_144
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Load:
    """`clients` send for `seconds`, or until `most_requests` are sent; what was sent by then is still answered."""

    base_url: str
    work: Work
    clients: int
    seconds: float
    first_number: int = 0
    most_requests: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`elapsed_s` is from the first request to the last answer; `failed` requests had fewer vectors than asked for."""

    latencies_ms: list[float]
    statuses: dict[int, int]
    vectors: int
    failed: int
    elapsed_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, and the number of vectors in the body. Status 0 is a connection that broke off."""

    status: int
    vectors: int


@dataclass(slots=True)
class _Tally:
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    vectors: int = 0
    failed: int = 0

    def add(self, answer: Answer, asked: Request, taken_s: float) -> None:
        self.latencies_ms.append(taken_s * 1000)
        self.statuses[answer.status] += 1
        self.vectors += answer.vectors
        self.failed += answer.vectors != asked.vectors


def drive(load: Load, stopped: Callable[[], bool] = lambda: False) -> Outcome:
    """Run the clients, at most until `stopped`, which is asked after each answer.

    Raises `TimeoutError` when nothing is answered for minutes.
    """
    with selectors.DefaultSelector() as selector:
        connections = [Connection(load.base_url) for _ in range(load.clients)]
        try:
            for connection in connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            return _drive(load, selector, connections, stopped)
        finally:
            for connection in connections:
                connection.socket.close()


def _drive(
    load: Load, selector: selectors.BaseSelector, connections: list["Connection"], stopped: Callable[[], bool]
) -> Outcome:
    numbers = count(load.first_number)
    past_last = None if load.most_requests is None else load.first_number + load.most_requests
    tally = _Tally()
    cpu_s, started_s = time.process_time(), time.perf_counter()
    for connection in connections:
        connection.send(load.work.request(next(numbers)))
    waiting = len(connections)
    while waiting:
        for connection in _readable(selector):
            answer = connection.receive()
            if answer is None:
                continue
            now_s = time.perf_counter()
            tally.add(answer, connection.asked, now_s - connection.sent_s)
            number = next(numbers)
            selector.unregister(connection.socket)
            over = now_s - started_s >= load.seconds or (past_last is not None and number >= past_last)
            if over or stopped():
                waiting -= 1
                continue
            connection.send(load.work.request(number))
            selector.register(connection.socket, selectors.EVENT_READ, connection)
    elapsed_s = time.perf_counter() - started_s
    cpu_s = time.process_time() - cpu_s
    return Outcome(tally.latencies_ms, dict(tally.statuses), tally.vectors, tally.failed, elapsed_s, cpu_s)


def _readable(selector: selectors.BaseSelector) -> list["Connection"]:
    ready = selector.select(_SILENCE_S)
    if not ready:
        raise TimeoutError(f"no answer for {_SILENCE_S:.0f} s")
    return [key.data for key, _ in ready]


class Connection:
    """One kept-alive HTTP/1.1 connection with one request on its way. It is open and warm once constructed."""

    asked: Request
    sent_s: float

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        self._address = (address.hostname or "", address.port or 80)
        self._received = bytearray()
        self._closing = False
        self._connect()
        self.socket.sendall(b"GET /livez HTTP/1.1\r\nHost: bench\r\n\r\n")
        while self.receive() is None:
            pass

    def _connect(self) -> None:
        self.socket = socket.create_connection(self._address, timeout=_SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._closing = False

    def send(self, request: Request) -> None:
        """Requests are a few kilobytes: they fit into the socket's buffer, and sending does not wait."""
        if self._closing:
            self.socket.close()
            self._connect()
        head = (
            f"POST {request.path} HTTP/1.1\r\nHost: bench\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(request.body)}\r\n\r\n"
        )
        self.asked, self.sent_s = request, time.perf_counter()
        self.socket.sendall(head.encode() + request.body)

    def receive(self) -> Answer | None:
        """Take what has arrived; None until the answer is whole."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except ConnectionError:
            data = b""
        self._received += data
        head_end = self._received.find(_HEAD_END)
        if data and (head_end < 0 or len(self._received) < head_end + len(_HEAD_END) + self._length(head_end)):
            return None
        # An answer that says so, or that breaks off, ends the connection: the next request opens another.
        self._closing = not data or _CLOSES.search(self._received, 0, head_end) is not None
        answer = Answer(int(self._received[9:12]) if data else 0, self._received.count(b'"embedding"') if data else 0)
        self._received.clear()
        return answer

    def _length(self, head_end: int) -> int:
        found = _LENGTH.search(self._received, 0, head_end)
        return int(found[1]) if found else 0
