"""The life of a small HTTP server on a free port of loopback."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    """HTTP/1.1 without a word on standard error."""

    protocol_version = "HTTP/1.1"
    # Of a client that has gone without a word; one that is only slow must not be taken for it.
    timeout = 60

    def log_message(self, *_arguments: object) -> None:
        """Keep the test's output to the test's words."""


class _QuietServer(ThreadingHTTPServer):
    """Without a word about clients that have gone, either: those words would be some other test's output."""

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the library has it
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """Serve until the block ends. What is being answered then goes on by itself."""
    httpd = _QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield httpd
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def base_url(httpd: ThreadingHTTPServer) -> str:
    """Where it listens."""
    return f"http://127.0.0.1:{httpd.server_address[1]}"


@contextmanager
def kept_port() -> Iterator[int]:
    """A port where nothing listens, for what cannot be told to take any; nobody else is given it until the block ends.

    Whoever sets `SO_REUSEADDR`, as servers do, may listen on it, as often as it likes.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        port: int = keeper.getsockname()[1]
        yield port
