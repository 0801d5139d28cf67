"""The proxy that stands for a distance: real sockets, whatever is sent arrives, later and in order."""

import hashlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from bench.delay import delayed

ROUND_TRIP_S = 0.2
NET_S = 60.0
FAREWELL = b"bye"


class Echo(socketserver.BaseRequestHandler):
    """Sends back what comes, and closes behind a farewell."""

    def handle(self) -> None:
        while data := self.request.recv(65_536):
            self.request.sendall(data)
            if data == FAREWELL:
                return


@pytest.fixture
def echo_url() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        serving.join()


def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=NET_S)


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(65_536)):
        data += more
    return data


def test_answer_takes_the_round_trip(echo_url: str) -> None:
    """No answer comes earlier; how much later it may come is up to the machine."""
    with delayed(echo_url, ROUND_TRIP_S) as url, connected(url) as connection:
        started_s = time.monotonic()
        connection.sendall(b"ping")
        answer = received(connection, 4)
        taken_s = time.monotonic() - started_s

    assert b"ping" == answer
    assert taken_s >= ROUND_TRIP_S


@pytest.mark.parametrize("round_trip_s", [pytest.param(0.0, id="none"), pytest.param(0.02, id="20 ms")])
def test_what_is_sent_arrives_whole_and_in_order(echo_url: str, round_trip_s: float) -> None:
    """On several connections at once, each in many pieces."""
    blocks = [hashlib.sha256(bytes([number])).digest() * 4096 for number in range(4)]
    with delayed(echo_url, round_trip_s) as url:
        connections = [connected(url) for _ in blocks]
        for start in range(0, len(blocks[0]), 10_000):
            for connection, block in zip(connections, blocks, strict=True):
                connection.sendall(block[start : start + 10_000])
        answers = [received(connection, len(block)) for connection, block in zip(connections, blocks, strict=True)]
        for connection in connections:
            connection.close()

    assert blocks == answers


def test_pod_that_closes_is_seen_to_close(echo_url: str) -> None:
    """Behind all that it has said before."""
    with delayed(echo_url, ROUND_TRIP_S) as url, connected(url) as connection:
        connection.sendall(FAREWELL)

        assert FAREWELL == received(connection, 1000)


def test_nobody_there_is_a_broken_connection() -> None:
    """As without the proxy: a client that asks a pod that has gone does not wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with delayed(f"http://127.0.0.1:{port}", 0.0) as url, connected(url) as connection:
        try:
            answer = connection.recv(1)
        except ConnectionError:
            answer = b""

    assert b"" == answer
