"""HTTP byte by byte, for clients that no library is rude enough to be."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """`headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str:
        """The error's."""
        code: str = self.body["error"]["code"]
        return code


@contextmanager
def connected(base_url: str) -> Iterator[socket.socket]:
    """An open connection; whatever waits on it gives up long after it should have come."""
    url = urlsplit(base_url)
    with socket.create_connection((url.hostname or "", url.port or 80), timeout=PATIENCE_S) as client:
        yield client


def read_answer(client: socket.socket) -> RawAnswer:
    """Read one answer with a JSON body; what follows it is left unread."""
    with client.makefile("rb", buffering=0) as stream:
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        left, body = int(headers.get("content-length", 0)), b""
        while left > len(body) and (piece := stream.read(left - len(body))):
            body += piece
        return RawAnswer(status, headers, json.loads(body) if body else None)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: pod", *lines, "", ""]).encode()


def send_until_ended(client: socket.socket, begin: bytes, again: bytes) -> None:
    """Send `begin`, then `again` until the other side ends the connection. Raises `TimeoutError` if it never does."""
    with suppress(ConnectionError):
        client.sendall(begin)
        while True:
            client.sendall(again)


@contextmanager
def attack(base_url: str, begin: bytes, again: bytes) -> Iterator[Callable[[], int]]:
    """Send `begin`, then `again` without end, and read whatever comes back, until the block or the connection ends.

    Gives a function that says how often `again` was sent so far. In the block the attack has begun.
    """
    sent = 0
    begun, ended = threading.Event(), threading.Event()

    def send(client: socket.socket) -> None:
        nonlocal sent
        with suppress(OSError):
            client.sendall(begin)
            while not ended.is_set():
                client.sendall(again)
                sent += 1
                begun.set()
        begun.set()

    def read(client: socket.socket) -> None:
        with suppress(OSError):
            while not ended.is_set() and client.recv(1_048_576):
                pass

    with connected(base_url) as client:
        threads = [threading.Thread(target=run, args=(client,)) for run in (send, read)]
        for thread in threads:
            thread.start()
        try:
            assert begun.wait(PATIENCE_S)
            yield lambda: sent
        finally:
            ended.set()
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
