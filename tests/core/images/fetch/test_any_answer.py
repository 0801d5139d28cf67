"""Whatever a server sends: a body or an error of ours, never anything else, never more than the limit."""

import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.deadline import Deadline
from core.errors import ServiceError
from core.images.fetch.addresses import IpAddress
from core.images.fetch.fetcher import Fetcher, FetchLimits
from tests.core.images.fetch.fakes import fetching, soon
from tests.core.images.fetch.servers import answer, redirect

LIMITS = FetchLimits(max_bytes=1000, timeout_s=10, max_redirects=1)

RIGHT = st.sampled_from(
    [
        answer(b"a" * 900),
        answer(b"a" * 1001),
        answer(b"", headers=["Connection: close"]),
        b"HTTP/1.0 200 OK\r\n\r\n" + b"a" * 900,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1f4;x=y\r\n"
        + b"a" * 500
        + b"\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"a"),
        redirect("/b", body=b"moved"),
        answer(b"", status="503 Busy"),
    ]
)
WORDS = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b": ",
        b"0",
        b"-1\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"RTSP/1.0 200 OK\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Location: //[\r\n",
        b"Upgrade: x\r\nConnection: upgrade\r\n",
        b"a" * 600,
        b"A: b\r\n" * 101,
    ]
)
EDIT = st.tuples(st.integers(0, 120), st.integers(0, 20), WORDS | st.binary(max_size=4))


def edited(right: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for start, removed, added in edits:
        right = right[:start] + added + right[start + removed :]
    return right


class Answered:
    """Connects to nobody: every connection has been answered with `response` already, and nothing follows."""

    response = b""

    def __init__(self) -> None:
        self._peers: list[socket.socket] = []

    def __call__(self, address: IpAddress, port: int, ends: Deadline) -> socket.socket:
        ours, peer = socket.socketpair()
        self._peers.append(peer)
        peer.sendall(self.response)
        peer.shutdown(socket.SHUT_WR)
        return ours

    def close(self) -> None:
        while self._peers:
            self._peers.pop().close()


@pytest.fixture(scope="module")
def answered() -> Answered:
    return Answered()


@pytest.fixture(scope="module")
def fetcher(answered: Answered) -> Iterator[Fetcher]:
    """One for all examples: making a fetcher reads the system's certificate authorities."""
    with fetching(limits=LIMITS, connect=answered) as fetcher:
        yield fetcher


@given(response=st.binary(max_size=300) | st.builds(edited, RIGHT, st.lists(EDIT, max_size=3)))
@example(response=b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 100_000)
@example(response=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 20_000)
@example(response=b"HTTP/1.1 200 OK\r\n" + b"A" * 100_000)
@settings(max_examples=400)
def test_any_answer_is_a_body_or_our_error(answered: Answered, fetcher: Fetcher, response: bytes) -> None:
    """For any bytes, `fetch` returns at most `max_bytes`, all of them reserved, or raises an error of ours."""
    answered.response = response
    reserved: list[int] = []
    body = b""
    with closing(answered), suppress(ServiceError):
        body = fetcher.fetch("http://127.0.0.1/a", deadline=soon(), reserve=reserved.append)

    assert len(body) <= sum(reserved) <= LIMITS.max_bytes
