"""Heads and bodies out of pieces, without a socket."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DownloadError
from core.images.fetch.body import read_body
from core.images.fetch.received import BUFFER_BYTES, Received
from tests.core.images.fetch.servers import answer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
IMAGE = bytes(range(256)) * 2


class Pieces:
    """Hands out these pieces, one a call, then the end of the stream; remembers how much."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.handed_out = 0

    def __call__(self, view: memoryview) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        count = min(len(piece), len(view))
        view[:count] = piece[:count]
        if piece[count:]:
            self._pieces.insert(0, piece[count:])
        self.handed_out += count
        return count


def read(pieces: Pieces) -> tuple[bytes, int]:
    """The body, and how many bytes are left behind it."""
    received = Received(pieces)
    head = received.take_head()
    body = read_body(head, received, max_bytes=10_000_000, reserve=lambda _count: None)
    return body, len(received)


@given(
    response=st.sampled_from(
        [
            answer(IMAGE),
            CHUNKED + b"100;a=b\r\n" + IMAGE[:256] + b"\r\n100\r\n" + IMAGE[256:] + b"\r\n0\r\nT: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n" + IMAGE,
        ]
    ),
    cuts=st.lists(st.integers(0, 700), max_size=12),
)
def test_pieces_do_not_matter(response: bytes, cuts: list[int]) -> None:
    """However the network cuts an answer, its body is the same and nothing is left behind it."""
    bounds = [0, *sorted(cuts), len(response)]
    pieces = [response[start:end] for start, end in pairwise(bounds)]

    assert read(Pieces(*pieces)) == (IMAGE, 0)


@pytest.mark.parametrize("follows", [pytest.param(b"x", id="byte"), pytest.param(b"\r\n", id="line")])
@pytest.mark.parametrize(
    "response",
    [
        pytest.param(answer(IMAGE), id="length"),
        pytest.param(CHUNKED + b"200\r\n" + IMAGE + b"\r\n0\r\n\r\n", id="chunks"),
        pytest.param(CHUNKED + b"200\r\n" + IMAGE + b"\r\n0\r\nT: x\r\n\r\n", id="trailers"),
    ],
)
def test_what_follows_is_left(response: bytes, follows: bytes) -> None:
    """Bytes that came behind an answer are not part of the body, and can be seen to have come."""
    body, left = read(Pieces(response + follows))

    assert body == IMAGE
    assert left > 0


def test_answer_behind_chunks_is_not_read() -> None:
    """A second answer behind the last chunk adds nothing to the body."""
    body, _ = read(Pieces(CHUNKED + b"1\r\na\r\n0\r\n\r\n" + CHUNKED + b"1\r\nb\r\n0\r\n\r\n"))

    assert body == b"a"


def test_large_body_is_received_where_it_stays() -> None:
    """A body far larger than the buffer is whole, and nothing behind its length is received."""
    image = IMAGE * 1000
    pieces = Pieces(answer(image), b"behind it")
    body, left = read(pieces)

    assert (body == image, left, pieces.handed_out) == (True, 0, len(answer(image)))


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"1\r\na\r\n" * 1_000_000, id="one-byte-each"),
        pytest.param(b"1;" + b"x" * 5_000_000, id="extension-without-end"),
        pytest.param(b"1\r\na\r\n0\r\n" + b"T: x\r\n" * 1_000_000, id="trailers-without-end"),
        pytest.param(b"1" + b"\r\n" * 1_000_000, id="empty-lines"),
    ],
)
def test_framing_is_bounded(wire: bytes) -> None:
    """A server that sends more framing than image is refused after some buffers, not at the deadline."""
    pieces = Pieces(CHUNKED + wire)
    with pytest.raises(DownloadError):
        read(pieces)

    assert pieces.handed_out <= 4 * BUFFER_BYTES


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A" * BUFFER_BYTES, id="too-long"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n" + b"A: b\r\n" * 20_000, id="interim-too-long"),
        pytest.param(b"220 mail.example ESMTP\r\n", id="another-protocol"),
        pytest.param(b"HTTP/1.1 200 OK\nA: b\n\n", id="bare-lf"),
        pytest.param(b"HTP", id="first-letters"),
    ],
)
def test_no_head_is_not_waited_for(data: bytes) -> None:
    """What will never become a head is refused as soon as that can be seen, while the stream is still open."""

    def receive_into(view: memoryview) -> int:
        count = pieces(view)
        assert count, "nobody may wait for more"
        return count

    pieces = Pieces(data)
    with pytest.raises(DownloadError, match="did not answer in HTTP"):
        Received(receive_into).take_head()
