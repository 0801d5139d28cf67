"""The body of an answer: how its end is known, how much of it is kept; no policy of statuses."""

from collections.abc import Callable
from io import BytesIO

from core.images.fetch.chunks import ChunkDecoder
from core.images.fetch.failures import closed_early, too_large
from core.images.fetch.head import Head
from core.images.fetch.received import Received

# Told of a number of bytes before they are kept; raises when there is no room for them.
Reserve = Callable[[int], None]


def read_body(head: Head, received: Received, *, max_bytes: int, reserve: Reserve) -> bytes:
    """The whole body; raises `DownloadError`, `ImageTooLarge`, `OSError` and what `reserve` raises.

    What follows the body in what was received is left there.
    """
    if head.length is not None:
        if head.length > max_bytes:
            raise too_large(max_bytes)
        reserve(head.length)
        return _read_length(head.length, received)
    kept = _Kept(max_bytes, reserve)
    if head.chunked:
        _read_chunks(received, kept)
    else:
        _read_to_the_end(received, kept)
    return kept.bytes()


def _read_length(length: int, received: Received) -> bytes:
    came_with_head = received.take(length)
    if len(came_with_head) == length:
        return bytes(came_with_head)
    # Unlike a bytearray, a BytesIO hands its memory over as bytes without copying it.
    body = BytesIO()
    body.seek(length - 1)
    body.write(b"\0")
    with body.getbuffer() as view:
        view[: len(came_with_head)] = came_with_head
        received.receive_rest_into(view[len(came_with_head) :])
    return body.getvalue()


class _Kept:
    """The bytes of a body whose length is not known before its end."""

    def __init__(self, max_bytes: int, reserve: Reserve) -> None:
        self._max_bytes = max_bytes
        self._reserve = reserve
        self._body = BytesIO()

    def add(self, piece: bytes | memoryview) -> None:
        if self._body.tell() + len(piece) > self._max_bytes:
            raise too_large(self._max_bytes)
        self._reserve(len(piece))
        self._body.write(piece)

    def bytes(self) -> bytes:
        return self._body.getvalue()


def _read_chunks(received: Received, kept: _Kept) -> None:
    """The last byte of what was received is decoded alone: an end before it shows that something follows."""
    decoder = ChunkDecoder()
    while not decoder.ended:
        if not received and not received.refill():
            raise closed_early()
        kept.add(decoder.decode(received.take(max(1, len(received) - 1))))


def _read_to_the_end(received: Received, kept: _Kept) -> None:
    while received or received.refill():
        kept.add(received.take(len(received)))
