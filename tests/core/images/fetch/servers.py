"""Servers on 127.0.0.1 that misbehave by script: a thread per connection, ended with the `with` block."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

JOIN_TIMEOUT_S = 10


class Visitor:
    """One accepted connection, as the script sees it."""

    def __init__(self, sock: socket.socket, number: int, stopping: threading.Event) -> None:
        self.sock = sock
        self.number = number  # counted from 1
        self.stopping = stopping

    def request(self) -> bytes:
        """The head of the next request; empty when the client has closed the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = self.sock.recv(1)
            if not piece:
                return b""
            head += piece
        return head

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, *, pause_s: float = 0.05) -> None:
        """Send byte by byte, again and again, until the client has had enough."""
        while True:
            for index in range(len(data)):
                if self.stopping.wait(pause_s):
                    return
                self.send(data[index : index + 1])

    def stall(self) -> None:
        self.stopping.wait(JOIN_TIMEOUT_S)

    def reset(self) -> None:
        """End with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


Script = Callable[[Visitor], None]


@dataclass
class Server:
    """`connections` counts what was accepted, `requests` what the scripts of this module were asked."""

    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    def url(self, path: str = "/a.png", *, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


def answer(body: bytes = b"", *, status: str = "200 OK", headers: Sequence[str] = ()) -> bytes:
    """A whole answer with its right Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str, *, body: bytes = b"") -> bytes:
    return answer(body, status="302 Found", headers=[f"Location: {location}"])


def says(data: bytes) -> Script:
    """Answer one request with these bytes, then close."""

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.send(data)

    return script


@contextmanager
def serve(script: Script, *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run `script` for every connection until the block ends."""
    stopping = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        server = Server(listener.getsockname()[1])

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                server.connections += 1
                visitor = Visitor(sock, server.connections, stopping)
                threads.append(threading.Thread(target=_run, args=(script, visitor, tls)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server
        finally:
            stopping.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(JOIN_TIMEOUT_S)


# States of a socket, as /proc/net/tcp has them.
_SYN_SENT = "02"
_LISTEN = "0A"


@dataclass(frozen=True)
class SilentPort:
    """A port that answers no SYN, until somebody accepts what waits at its `listener`."""

    listener: socket.socket

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def url(self, *, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/a.png"

    def knocks(self) -> int:
        """How many sockets have sent their SYN to it and wait."""
        end = f":{self.port:04X}"
        return sum(state == _SYN_SENT and remote.endswith(end) for _, remote, state, _ in self._sockets())

    def wait_for_knocks(self, net_s: float, count: int = 1) -> bool:
        """Until there are so many; False when there are not after `net_s`."""
        return _wait_until(lambda: self.knocks() >= count, net_s)

    def is_full(self) -> bool:
        """Whether a connection waits to be accepted: the kernel drops the next ones."""
        end = f":{self.port:04X}"
        return any(
            state == _LISTEN and local.endswith(end) and not queues.endswith(":00000000")
            for local, _, state, queues in self._sockets()
        )

    def _sockets(self) -> Iterator[list[str]]:
        """Local address, remote address, state, lengths of the queues; a listener's second is that of who waits."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            yield line.split()[1:5]


@contextmanager
def silent() -> Iterator[SilentPort]:
    """A port where nobody accepts, and whose one place for a connection that waits is taken."""
    with socket.socket() as listener, socket.socket() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        listener.settimeout(JOIN_TIMEOUT_S)
        waiting.settimeout(JOIN_TIMEOUT_S)
        waiting.connect(listener.getsockname())
        port = SilentPort(listener)
        assert _wait_until(port.is_full, JOIN_TIMEOUT_S)
        yield port


def _wait_until(holds: Callable[[], bool], net_s: float) -> bool:
    give_up_s = time.monotonic() + net_s
    while not holds():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def serve_paths(
    paths: dict[str, bytes], *, tls: ssl.SSLContext | None = None, requests_per_connection: int | None = None
) -> Iterator[Server]:
    """A well-behaved keep-alive server: path -> whole answer."""
    requests: list[bytes] = []

    def script(visitor: Visitor) -> None:
        answered = 0
        while answered != requests_per_connection and (head := visitor.request()):
            requests.append(head)
            visitor.send(paths[head.split(b" ")[1].decode()])
            answered += 1

    with serve(script, tls=tls) as server:
        server.requests = requests
        yield server


def _run(script: Script, visitor: Visitor, tls: ssl.SSLContext | None) -> None:
    # A client that hangs up is what most of these scripts provoke.
    with visitor.sock, suppress(OSError):
        visitor.sock.settimeout(JOIN_TIMEOUT_S)
        if tls is not None:
            visitor.sock = tls.wrap_socket(visitor.sock, server_side=True)
        with visitor.sock:
            script(visitor)
