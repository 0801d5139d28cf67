"""What answers where a Redis should: something else, too slowly, or without an end."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SOON_S = 60.0

# What may be said there, whatever is asked.
NO_REDIS = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "not what was asked for": b"+OK\r\n" * 9,
    "no number": b":many\r\n" * 9,
    "no length": b"$many\r\n" * 9,
    "other rows": b"*1\r\n$2\r\nno\r\n" * 9,
    "endless": b"*1000000000\r\n",
    "errors": b"-OOM no memory\r\n" * 9,
    "nothing": b"",
}

Answer = Callable[[socket.socket], object]


@contextmanager
def listening(backlog: int = 128) -> Iterator[tuple[str, socket.socket]]:
    """Something that takes connections, and its address as that of a Redis."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        try:
            yield f"redis://127.0.0.1:{server.getsockname()[1]}", server
        finally:
            # Ends an `accept` that waits, which closing does not.
            server.shutdown(socket.SHUT_RDWR)


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Its address: each connection is given to `answer` and then read, until the block ends."""
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            answer(connection)
            while connection.recv(65_536):
                pass

    def accept(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                thread = threading.Thread(target=serve, args=(connection,), daemon=True)
                thread.start()
                connections.append(connection)
                threads.append(thread)

    with listening() as (address, server):
        accepting = threading.Thread(target=accept, args=(server,), daemon=True)
        accepting.start()
        yield address
    for connection in connections:
        # Whoever has asked may keep it for another time.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    for thread in (accepting, *threads):
        thread.join(SOON_S)
        assert not thread.is_alive()


class Drip:
    """Answers the first question with `given`, a byte at a time, each long before a timeout; `sent` is how many of them
    have gone.
    """

    def __init__(self, given: bytes, gap_s: float) -> None:
        self._given = given
        self._gap_s = gap_s
        self.sent = 0

    def __call__(self, connection: socket.socket) -> None:
        _greet(connection)
        for byte in self._given:
            connection.sendall(bytes([byte]))
            self.sent += 1
            time.sleep(self._gap_s)


class Flood:
    """Answers the first question with `before`, and then a value of 400 MB; `sent` is how much of that has gone."""

    PIECE = bytes(65_536)

    def __init__(self, before: bytes = b"") -> None:
        self._before = before
        self.sent = 0

    def __call__(self, connection: socket.socket) -> None:
        _greet(connection)
        connection.sendall(self._before + b"$400000000\r\n")
        for _ in range(400_000_000 // len(self.PIECE)):
            connection.sendall(self.PIECE)
            self.sent += len(self.PIECE)


def _greet(connection: socket.socket) -> None:
    """Take what a client says of itself, until it asks something."""
    while said := connection.recv(65_536).count(b"SETINFO"):
        connection.sendall(b"+OK\r\n" * said)
