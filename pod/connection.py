"""A client's connection on the hub: it takes turns with all others, and what it may cost them has an end.

Knows bytes and time; what they mean is gunicorn's parser's business.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from gevent import Timeout, get_hub, socket
from gevent.event import Event

# A greenlet that never has to wait never lets go of the hub: its client has sent more before it asks. After this long
# of the hub's processor time the others come first. An ordinary request has waited for its client a tenth of that ago,
# and pays nothing.
_TURN_S = 0.0005

# One read. A mebibyte at once, as gunicorn asks for, is a turn by itself.
_PIECE_BYTES = 65_536

# The kernel takes most answers at once. A large one the client must read, and at this rate at least.
_SLOWEST_BYTES_PER_S = 16_384

# How much of an unwanted body is read after its answer, and for how long. Closing over unread bytes resets the
# connection, and many a client then drops the answer that it has.
_LINGER_S = 2.0
_LINGER_BYTES = 16_777_216


class Turns:
    """Of all whose turn is over, one goes on in each round of the hub's loop, in the order in which they came.

    So however many there are, whoever has just been heard from waits for one turn of one of them.
    """

    def __init__(self) -> None:
        self._last = Event()
        self._last.set()

    def wait(self) -> None:
        """Let all others run first."""
        before, mine = self._last, Event()
        self._last = mine
        hub = get_hub()
        next_round: Any = hub.loop.timer(0)
        try:
            before.wait()
            # Not sleep(0): that comes back before the loop has looked at the other sockets.
            with next_round:
                hub.wait(next_round)
        finally:
            mine.set()


@dataclass(frozen=True, slots=True)
class Due:
    """When something has to be there, on the monotonic clock, and the error if it is not."""

    at_s: float
    error: Exception


class Connection(socket.socket):
    """Takes over an accepted connection; `send_timeout_s` is how long a client may leave an answer lying."""

    __slots__ = ("_due", "_send_timeout_s", "_turn_began_s", "_turns")

    # What gevent's annotations leave out.
    _sock: Any
    _read_event: Any
    _wait: Callable[[Any], None]

    def __init__(self, accepted: socket.socket, turns: Turns, *, send_timeout_s: float) -> None:
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        super().__init__(family, kind, protocol, fileno=accepted.detach())
        self._turns = turns
        self._send_timeout_s = send_timeout_s
        self._due: Due | None = None
        self._turn_began_s = time.thread_time()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Wait for bytes. Whoever finds some without waiting lets the others go first when its turn is over."""
        while True:
            try:
                data: bytes = self._sock.recv(min(size, _PIECE_BYTES), flags)
            except BlockingIOError:
                self._wait_for_bytes()
                self._turn_began_s = time.thread_time()
            else:
                self.end_turn_if_due()
                return data

    @contextmanager
    def bytes_due(self, due: "Due") -> Iterator[None]:
        """Reads that have to wait end with the error of `due`, from then on."""
        self._due = due
        try:
            yield
        finally:
            self._due = None

    def end_turn_if_due(self) -> None:
        """Let the others go first, if this connection has kept the hub for a turn."""
        if time.thread_time() - self._turn_began_s > _TURN_S:
            self._turns.wait()
            self._turn_began_s = time.thread_time()

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ANN401 - bytes, or a view of them
        """Raises `ConnectionResetError` for a client that does not take its answer: it is as good as gone."""
        with suppress(BlockingIOError):
            sent = self._sock.send(data, flags)
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self.settimeout(self._send_timeout_s + memoryview(data).nbytes / _SLOWEST_BYTES_PER_S)
        try:
            super().sendall(data, flags)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the client does not read its answer") from error
        finally:
            self.settimeout(None)

    @property
    def has_bytes(self) -> bool:
        """Whether something is there that nobody has read: bytes, or the client's end."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def end(self) -> None:
        """Whoever reads from it has nothing more to come."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def _wait_for_bytes(self) -> None:
        if self._due is None:
            self._wait(self._read_event)
            return
        # Made here, and not where the time begins: most bodies have come with their heads.
        with Timeout(max(0.0, self._due.at_s - time.monotonic()), self._due.error):
            self._wait(self._read_event)

    def linger(self) -> None:
        """End this side, and read on for a moment, so that the client is not reset before it has its answer."""
        with suppress(OSError, Timeout), Timeout(_LINGER_S):
            self.shutdown(socket.SHUT_WR)
            left = _LINGER_BYTES
            while left > 0 and (data := self.recv(_PIECE_BYTES)):
                left -= len(data)


class Waiting:
    """Connections on which no request is being worked on: their clients have sent no whole head yet."""

    def __init__(self) -> None:
        # In the order in which they began to wait.
        self._connections: dict[Connection, None] = {}

    def add(self, connection: Connection) -> None:
        self._connections[connection] = None

    def discard(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def end_longest(self) -> bool:
        """End the one that has waited longest, of those that have sent nothing just now; False where there is none."""
        longest = next((one for one in self._connections if not one.has_bytes), None)
        if longest is None:
            return False
        self.discard(longest)
        longest.end()
        return True
