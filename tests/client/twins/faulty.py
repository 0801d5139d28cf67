"""A server on raw sockets that does to each connection what a test says, also what no HTTP library would do."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Body = dict[str, Any]

DIM = 4
FINGERPRINT = "2-aaaaaaaaaaaaaaaa"
_PATIENCE_S = 60.0
_DRIP_S = 0.02


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body


@dataclass(slots=True)
class Peer:
    """The server's end of one connection, with the request that has come over it. `over` is set when the test is."""

    connection: socket.socket
    seen: Seen
    over: threading.Event

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def drip(self, piece: bytes, pause_s: float = _DRIP_S) -> None:
        """Send it again and again, until the client goes."""
        while not self.over.wait(pause_s):
            self.send(piece)

    def reset(self) -> None:
        """Lingering for zero seconds: closing sends a reset instead of a tidy end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Behaviour = Callable[[Peer], object]
"""What is done once a request is there; the connection is closed after it."""


@dataclass(slots=True)
class Script:
    """Behaviours in order, one per connection; the last one stays."""

    base_url: str
    behaviours: list[Behaviour]
    seen: list[Seen] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, seen: Seen) -> Behaviour:
        with self.lock:
            self.seen.append(seen)
            return self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]


@contextmanager
def faulty_server(*behaviours: Behaviour, read: bool = True) -> Iterator[Script]:
    """Run a server on a free port of loopback until the block ends. Unless it is to `read`, behaviours do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = Script(f"http://127.0.0.1:{listener.getsockname()[1]}", list(behaviours))
        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=_accept, args=(listener, script, threads, read))
        accepting.start()
        try:
            yield script
        finally:
            script.over.set()
            # It wakes nobody who is in `accept` to close a socket; a last connection does.
            with suppress(OSError):
                socket.create_connection(listener.getsockname()).close()
            for thread in [accepting, *threads]:
                thread.join(_PATIENCE_S)
            assert not any(thread.is_alive() for thread in threads)


def _accept(listener: socket.socket, script: Script, threads: list[threading.Thread], read: bool) -> None:
    while True:
        connection, _ = listener.accept()
        if script.over.is_set():
            connection.close()
            return
        thread = threading.Thread(target=_serve, args=(connection, script, read))
        threads.append(thread)
        thread.start()


def _serve(connection: socket.socket, script: Script, read: bool) -> None:
    with connection, suppress(OSError):
        connection.settimeout(_PATIENCE_S)
        seen = read_request(connection) if read else Seen("", "", {}, {})
        if seen is not None:
            script.next(seen)(Peer(connection, seen, script.over))


def read_request(connection: socket.socket) -> Seen | None:
    """The whole request, or None from a client that has gone."""
    with connection.makefile("rb") as stream:
        first = stream.readline().decode()
        if not first:
            return None
        method, path, _ = first.split()
        headers: dict[str, str] = {}
        while line := stream.readline().strip().decode():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        data = stream.read(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, json.loads(data) if data else {})


def reply(status: int = 200, data: bytes = b"", **headers: str) -> Behaviour:
    """A whole answer."""
    return lambda peer: peer.send(head(status, {"Content-Length": str(len(data)), **_names(headers)}) + data)


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """The head of an answer."""
    lines = [f"HTTP/1.1 {status} Said", "Connection: close", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def json_reply(body: object, status: int = 200, **headers: str) -> Behaviour:
    return reply(status, json.dumps(body).encode(), Content_Type="application/json", **headers)


def page(status: int, **headers: str) -> Behaviour:
    """What a proxy answers by itself."""
    return reply(status, b"<html><body>Bad</body></html>", Content_Type="text/html", **headers)


def error_reply(code: str, status: int, *, retryable: bool, **headers: str) -> Behaviour:
    error = {"code": code, "message": "as it says", "request_id": "from-server", "retryable": retryable}
    return json_reply({"error": error}, status, **headers)


def wrong(**members: object) -> Behaviour:
    """A success that is wrong in some members."""
    return lambda peer: json_reply(success(peer.seen.body) | members)(peer)


def healthy(peer: Peer) -> None:
    """What a pod answers that is well."""
    if peer.seen.method == "GET":
        json_reply({"status": "ok", "fingerprint": FINGERPRINT, "dim": DIM})(peer)
    else:
        json_reply(success(peer.seen.body))(peer)


def success(members: Body, *, fingerprint: str = FINGERPRINT) -> Body:
    """The contract's answer to a request body, whichever operation it is of."""
    if "items" not in members:
        return {**_embedding(members), "fingerprint": fingerprint}
    return {"results": [_embedding(item) for item in members["items"]], "fingerprint": fingerprint}


def vector_of(value: str) -> list[float]:
    """Four numbers that tell one image or text from another, of norm 1 and exact in float32."""
    numbers = np.asarray([len(value), *map(ord, value[-3:].rjust(3))], dtype=np.float64)
    exact: list[float] = (numbers / np.linalg.norm(numbers)).astype(np.float32).tolist()
    return exact


def _embedding(members: Body) -> Body:
    said = members.get("image_url") or members.get("text") or members["image_b64"]
    return {
        "request_id": members["request_id"],
        "embedding": base64.b64encode(np.asarray(vector_of(said), dtype="<f4").tobytes()).decode(),
        "dim": DIM,
        "normalized": members["normalize"],
        "timings": {"total_ms": 1.0},
    }


def item_errors(code: str, fingerprint: str) -> Behaviour:
    """Health is well, and every item of every batch fails by itself."""

    def behave(peer: Peer) -> None:
        if peer.seen.method == "GET":
            json_reply({"status": "ok", "fingerprint": fingerprint, "dim": 512})(peer)
            return
        error = {"code": code, "message": "m", "retryable": True}
        results = [{"request_id": item["request_id"], "error": error} for item in peer.seen.body["items"]]
        json_reply({"results": results, "fingerprint": fingerprint})(peer)

    return behave


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
