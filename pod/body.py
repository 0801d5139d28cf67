"""A request's body: read on the hub piece by piece, counted while it is held, let go of as early as possible."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

from gunicorn.http.errors import ParseException

from core.byte_budget import ByteBudget, Lease
from core.deadline import Deadline
from core.errors import BodyTooLarge, DeadlineExceeded, InvalidJson, Overloaded
from core.metrics import Reading
from pod.connection import Connection, Due
from pod.errors import from_gunicorn

# What is asked for at once; a connection gives 64 KiB at most.
_PIECE_BYTES = 65_536

# Most bodies are smaller, and no budget refuses them: connections are bounded. Otherwise strangers who send as much as
# all budgets hold, slowly, would keep everybody out.
_FREE_BYTES = 65_536
# Most of the others are smaller than this, and those that are not do not count against them.
_SMALL_BYTES = 1_048_576

# Whoever needs longer, or sends more slowly once it has sent much, holds a connection for its own sake.
_TIMEOUT_S = 20.0
_SLOWEST_BYTES_PER_S = 2_097_152


class ReceivedBody:
    """What has been read; `release` when it is not needed any more."""

    def __init__(self, data: bytearray, held: ExitStack) -> None:
        self.data = data
        self._held = held

    def release(self) -> None:
        """Let go of the bytes, and of their share of the budget. From any thread, more than once."""
        self.data = bytearray()
        self._held.close()


class Bodies:
    """How much may be held of bodies before they are understood: 64 KiB of each connection, a mebibyte for each of
    `requests`, and `large_bytes` of what goes beyond a mebibyte. Bodies are read before admission: a thousand
    connections must not hold a thousand of the largest.
    """

    def __init__(self, *, requests: int, large_bytes: int, max_body_bytes: int) -> None:
        self._small = ByteBudget(requests * _SMALL_BYTES)
        self._large = ByteBudget(large_bytes)
        self._max_body_bytes = max_body_bytes

    def read(self, connection: Connection, environ: Mapping[str, Any], deadline: Deadline) -> ReceivedBody:
        """Raises `BodyTooLarge`, `Overloaded`, `InvalidJson` for what breaks off or is no HTTP, and `DeadlineExceeded`
        for a body that trickles in."""
        is_chunked = "HTTP_TRANSFER_ENCODING" in environ
        # A body without a length is read to one byte more than is allowed.
        expected = self._max_body_bytes + 1 if is_chunked else int(environ.get("CONTENT_LENGTH") or 0)
        if expected > self._max_body_bytes and not is_chunked:
            raise BodyTooLarge
        with ExitStack() as held:
            held_bytes = _Held(*(held.enter_context(budget.lease()) for budget in (self._small, self._large)))
            data = _received(environ["wsgi.input"], expected, held_bytes, connection, deadline)
            if len(data) > self._max_body_bytes:
                raise BodyTooLarge
            if len(data) < expected and not is_chunked:
                raise InvalidJson("the body broke off")
            return ReceivedBody(data, held.pop_all())

    def readings(self) -> Iterator[Reading]:
        """What is held of bodies, for metrics."""
        yield from self._small.readings("bodies")
        yield from self._large.readings("large_bodies")


@dataclass(frozen=True, slots=True)
class _Held:
    """The shares of one body in both budgets."""

    small: Lease
    large: Lease

    def change_to(self, received: int) -> None:
        """By what has come, and not by what was announced: nobody holds room for nothing. Raises `Overloaded`."""
        self.small.add(max(0, min(received, _SMALL_BYTES) - _FREE_BYTES) - self.small.held_bytes)
        self.large.add(max(0, received - _SMALL_BYTES) - self.large.held_bytes)


def _received(
    source: Any,  # noqa: ANN401 - gunicorn's
    expected: int,
    held: _Held,
    connection: Connection,
    deadline: Deadline,
) -> bytearray:
    data, received = bytearray(), 0
    refused: Overloaded | None = None
    began_s = time.monotonic()
    late = DeadlineExceeded("the body did not arrive in time")
    while received < expected:
        due_s = began_s + _TIMEOUT_S + received / _SLOWEST_BYTES_PER_S
        with connection.bytes_due(Due(min(due_s, time.monotonic() + deadline.remaining_s()), late)):
            piece = _piece(source, min(_PIECE_BYTES, expected - received))
        if not piece:
            break
        received += len(piece)
        if refused is not None:
            continue
        try:
            held.change_to(received)
            data += piece
        except Overloaded as error:
            # The rest is read all the same, and dropped: a client reads its answer when it has sent its body.
            refused, data = error, bytearray()
            held.change_to(0)
    if refused is not None:
        raise refused
    return data


def _piece(source: Any, count: int) -> bytes:  # noqa: ANN401 - gunicorn's
    try:
        return cast("bytes", source.read(count))
    except ParseException as error:
        raise from_gunicorn(error) from error
    except OSError as error:
        raise InvalidJson("the body broke off") from error
