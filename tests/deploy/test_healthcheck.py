"""The container's health check beside a server that is ready, or is not, on any address of this machine."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tools.testbed.loopback import kept_port
from tools.testbed.process import ROOT

SOON_S = 60.0


class ReadyAt(BaseHTTPRequestHandler):
    """Answers 200 to /readyz, 503 to all else."""

    path_of_ready = "/readyz"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == self.path_of_ready else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class NeverReady(ReadyAt):
    path_of_ready = "/never"


class OfSix(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def serving(address: str, handler: type[ReadyAt]) -> Iterator[int]:
    make = OfSix if ":" in address else ThreadingHTTPServer
    with make((address, 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def check(port: int, host: str) -> int:
    """Its exit status."""
    environ = {"PORT": str(port), "HOST": host}
    return subprocess.run([sys.executable, "deploy/healthcheck.py"], cwd=ROOT, env=environ, timeout=SOON_S).returncode


def has_six() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("address", "host"),
    [
        pytest.param("127.0.0.1", "", id="not set"),
        pytest.param("127.0.0.1", "0.0.0.0", id="all"),  # noqa: S104 - what HOST is
        pytest.param("127.0.0.2", "127.0.0.2", id="one"),
        pytest.param(
            "::1", "::", id="all of IPv6", marks=pytest.mark.skipif(not has_six(), reason="no IPv6 on this machine")
        ),
    ],
)
def test_ready_where_the_pod_listens(address: str, host: str) -> None:
    """`HOST` is the pod's own setting: a container that listens elsewhere was never healthy."""
    with serving(address, ReadyAt) as port:
        assert 0 == check(port, host)


def test_unready() -> None:
    """Answered with another status."""
    with serving("127.0.0.1", NeverReady) as port:
        assert 1 == check(port, "")


def test_nobody_there() -> None:
    """Nothing listens."""
    with kept_port() as port:
        assert 1 == check(port, "")
