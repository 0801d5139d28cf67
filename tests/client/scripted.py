"""A web server that does what a test tells it, mishaps included, and fakes of what the client takes as arguments."""

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from clip_embedding_client import ClientSettings, ClipClient
from clip_embedding_client.backends import Backend
from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import Flow
from clip_embedding_client.events import OnEvent
from clip_embedding_client.policy import Policy

from tools.testbed.loopback import QuietHandler, base_url, serving

Body = dict[str, Any]

SECRET = "test-secret"
DIM = 4
FINGERPRINT = "aaaaaaaaaaaaaaaa"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: whole, or cut off after `data` (`reset`), or its end never comes: the headers drip
    (`drip`), or the body does (`trickle`), or nothing more comes at all (`stall`)."""

    status: int = 200
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    drip: bool = False
    trickle: bool = False
    stall: bool = False

    @property
    def is_short(self) -> bool:
        """Whether less will come than is announced."""
        return self.reset or self.trickle or self.stall


Answer = Reply | Callable[[Seen], Reply]


@dataclass(slots=True)
class Script:
    """Answers in order; the last one stays."""

    base_url: str
    answers: list[Answer] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, seen: Seen) -> Reply:
        with self.lock:
            self.seen.append(seen)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, Reply) else answer(seen)

    def paths(self) -> list[str]:
        """What was asked for, as `METHOD path`."""
        return [f"{seen.method} {seen.path}" for seen in self.seen]


@contextmanager
def scripted_server(*answers: Answer) -> Iterator[Script]:
    """Run a server on a free port of loopback until the block ends."""
    with serving(_Handler) as httpd:
        script = Script(base_url(httpd), list(answers))
        httpd.script = script  # type: ignore[attr-defined]
        try:
            yield script
        finally:
            script.over.set()


class _Handler(QuietHandler):
    # A connection each: a script goes by requests, and a server that goes away leaves nothing open.
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        script: Script = self.server.script  # type: ignore[attr-defined]
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        reply = script.next(Seen(self.command, self.path, dict(self.headers), json.loads(data) if data else {}))
        if reply.drip:
            # Every single read of the client is quick, and only the whole takes too long.
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            self._drip(script.over)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.data) + (1000 if reply.is_short else 0)))
        self.end_headers()
        self.wfile.write(reply.data)
        self.wfile.flush()
        if reply.stall:
            script.over.wait(30)
        if reply.trickle:
            self._drip(script.over)
        if reply.reset:
            # Lingering for zero seconds: closing sends a reset instead of a tidy end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def do_POST(self) -> None:
        self.do_GET()

    def _drip(self, over: threading.Event) -> None:
        while not over.wait(0.05):
            try:
                self.wfile.write(b"x")
            except OSError:
                return


@dataclass(slots=True)
class FakeTime:
    """Time that passes only in `sleep` and `asleep`."""

    now_s: float = 1_703_001_234.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float, _left: threading.Event | None = None) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def read(self) -> float:
        return self.now_s

    def clock(self) -> Clock:
        return Clock(now=self.read, monotonic=self.read, sleep=self.sleep, asleep=self.asleep)


def settings(**variables: str) -> ClientSettings:
    """Settings of a pod that is not there, with `variables` over them."""
    given = {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": "http://127.0.0.1:9",
        "EMBEDDING_HMAC_SECRET": SECRET,
    }
    return ClientSettings.from_environ(given | variables)


def client_of(
    backends: Sequence[Backend], clock: Clock | None = None, on_event: OnEvent | None = None, /, **variables: str
) -> ClipClient:
    """A client over a backend, or over a primary and a fallback, with `settings(**variables)`; time is a fake one."""
    return ClipClient.over(Policy.over(backends, settings(**variables), clock or FakeTime().clock(), on_event))


def json_reply(body: object, status: int = 200, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **names})


def page(status: int) -> Reply:
    """What a proxy answers by itself."""
    return Reply(status, b"<html><body>Bad</body></html>", {"Content-Type": "text/html"})


def error_reply(code: str, status: int, *, retryable: bool, **headers: str) -> Reply:
    error = {"code": code, "message": "as it says", "request_id": "from-server", "retryable": retryable}
    return json_reply({"error": error}, status, **headers)


def vector_of(value: str) -> list[float]:
    """Four numbers that tell one image or text from another, of norm 1 and exact in float32."""
    numbers = np.asarray([len(value), *map(ord, value[-3:].rjust(3))], dtype=np.float64)
    exact: list[float] = (numbers / np.linalg.norm(numbers)).astype(np.float32).tolist()
    return exact


def success(members: Body, *, fingerprint: str = FINGERPRINT) -> Body:
    """The contract's answer to a request body, whichever operation it is of."""
    if "items" not in members:
        return {**_embedding(members), "fingerprint": fingerprint}
    return {"results": [_embedding(item) for item in members["items"]], "fingerprint": fingerprint}


def _embedding(members: Body) -> Body:
    payload = members.get("image_url") or members.get("image_b64") or members["text"]
    vector = np.asarray(vector_of(payload), dtype="<f4")
    return {
        "request_id": members["request_id"],
        "embedding": base64.b64encode(vector.tobytes()).decode(),
        "dim": DIM,
        "normalized": members["normalize"],
        "timings": {"total_ms": 1.0},
    }


def item_error(item: Body, code: str, *, retryable: bool = True) -> Body:
    """The result of an item that failed in a batch."""
    error = {"code": code, "message": "m", "request_id": item["request_id"], "retryable": retryable}
    return {"request_id": item["request_id"], "error": error}


def answer(seen: Seen) -> Reply:
    """What a healthy pod answers."""
    if seen.method == "GET":
        return json_reply({"status": "ok", "fingerprint": FINGERPRINT, "dim": DIM})
    return json_reply(success(seen.body))


@dataclass(slots=True)
class FakeBackend:
    """A backend in memory, whose flows ask nothing of their driver.

    `error` is what the next calls meet; `calls` are the bodies that arrived, `timeouts_s` the time that each was given,
    `health_timeouts_s` that of each question after its health.
    """

    name: str = "runpod_pod"
    fingerprint: str = FINGERPRINT
    error: Exception | None = None
    respond: Callable[[Body], Body] | None = None
    healthy: bool = True
    calls: list[Body] = field(default_factory=list)
    timeouts_s: list[float] = field(default_factory=list)
    health_timeouts_s: list[float] = field(default_factory=list)
    closed: bool = False

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        yield from ()
        self.calls.append({"path": path, **body})
        self.timeouts_s.append(timeout_s)
        if self.error is not None:
            raise self.error
        return self.respond(dict(body)) if self.respond else success(dict(body), fingerprint=self.fingerprint)

    def health(self, *, timeout_s: float) -> Flow[object]:
        yield from ()
        self.health_timeouts_s.append(timeout_s)
        if self.error is not None and not self.healthy:
            raise self.error
        return {"status": "ok", "fingerprint": self.fingerprint, "dim": DIM}

    def close(self) -> None:
        self.closed = True
