"""The gunicorn worker: gevent holds the connections, and nothing is monkey-patched.

Why not the stock worker: it patches every lock of every library in the process, and native threads that contend
for such a lock hang for good (docs/decisions/0001-gevent-at-the-door.md).
"""

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, cast

import gevent
from flask import Flask
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.config import Config
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request
from gunicorn.http.wsgi import Response, create
from gunicorn.workers.ggevent import GeventWorker

from core.errors import InternalError
from core.service import Service
from core.siblings import Seat
from core.wire.requests import new_request_id
from pod import SERVICE_EXTENSION
from pod.connection import Connection, Turns, Waiting
from pod.errors import from_gunicorn, last_answer

logger = logging.getLogger(__name__)

# How soon it is seen that the last process that served is gone, or that one has come.
_LOOK_S = 0.2

# Between two lines that say that there are too many connections.
_TELL_AGAIN_S = 60.0


@dataclass(frozen=True)
class _Name:
    """Stands for a listener where gunicorn asks for its name with each connection, also after it is closed."""

    name: Any

    def getsockname(self) -> Any:  # noqa: ANN401 - depends on the address family
        return self.name


class SweepingServer(StreamServer):
    """Accepts while `accepts` says so: all processes have one listener, and who waits there goes to one that does.

    When it closes it answers also those who have connected but are not accepted yet, unless another process will: the
    kernel would reset them.
    """

    # What gevent's annotations leave out.
    _timer: Any

    def __init__(
        self,
        listener: socket.socket,
        *,
        accepts: Callable[[], bool],
        make_room: Callable[[], None],
        handle: Any,  # noqa: ANN401 - a callable of gunicorn's
        spawn: Pool,
    ) -> None:
        self._accepts = accepts
        self._make_room = make_room
        super().__init__(listener, handle=handle, spawn=spawn)

    def look(self) -> None:
        """Begin or stop to accept, if that has changed."""
        if not self._accepts():
            self.stop_accepting()
        elif self.full():
            # All places were taken at once, perhaps, when nobody had been heard yet who could go.
            self._make_room()
        elif self.started and self._timer is None:
            # With a timer gevent pauses by itself: it had no file descriptor left.
            self.start_accepting()

    def do_read(self) -> Any:  # noqa: ANN401 - gevent's: a socket and an address, or None
        # Asked with each connection: another process may have begun to serve since the last look.
        if self._accepts():
            return super().do_read()
        self.stop_accepting()
        return None

    def do_handle(self, *accepted: Any) -> None:  # noqa: ANN401 - gevent's: a socket and an address
        """Whoever takes the last place is no reason to let the next ones wait."""
        super().do_handle(*accepted)
        if self.full():
            self._make_room()

    def close(self) -> None:
        while not self.closed and not self.full() and (accepted := self.do_read()):
            self.do_handle(*accepted)
        super().close()


class _Pieces(list[bytes]):
    """Stands for a socket where gunicorn writes an answer piece by piece."""

    sendall = list.append


class _WholeAnswer(Response):
    """Leaves in one piece. Head and body by themselves are two system calls, and each gives the GIL away."""

    def __init__(self, req: Request, sock: Connection, cfg: Config) -> None:
        self._pieces = _Pieces()
        super().__init__(req, cast("Any", self._pieces), cfg)
        self._connection = sock

    def close(self) -> None:
        super().close()
        self._connection.sendall(b"".join(self._pieces))


class UnpatchedGeventWorker(GeventWorker):
    """Turns the listening sockets into gevent's, and leaves threading, socket and ssl as they are."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
        super().__init__(*arguments, **options)
        # gunicorn calls it with what its own kind of server needs; ours needs the socket and the pool.
        self.server_class = self._make_server  # type: ignore[assignment,misc]
        self._turns = Turns()
        self._waiting = Waiting()
        self._told_at_s = -math.inf
        self._servers = list[SweepingServer]()
        self._accepts = True
        self._waits_for_successor = False
        # The configuration gives it one before the fork.
        self.seat: Seat

    def _make_server(self, listener: socket.socket, *, spawn: Pool, **_unused: Any) -> SweepingServer:  # noqa: ANN401
        name = cast("socket.socket", _Name(listener.getsockname()))
        server = SweepingServer(
            listener,
            accepts=lambda: self._service().accepts,
            make_room=self._make_room,
            handle=partial(self.handle, name),
            spawn=spawn,
        )
        if self.cfg.workers > 1:
            # Of a burst each process takes what it comes to, and not one of them all.
            server.max_accept = 1
        self._servers.append(server)
        return server

    def init_process(self) -> None:
        # gunicorn looks each setting up by way of two methods, some forty times for each request.
        vars(self.cfg).update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def patch(self) -> None:
        # gunicorn hands over wrappers of its own, which its annotations call sockets.
        listeners = cast("list[Any]", self.sockets)
        self.sockets = [
            socket.socket(listener.FAMILY, socket.SOCK_STREAM, fileno=listener.sock.detach()) for listener in listeners
        ]

    def run(self) -> None:
        gevent.spawn(self._mind_the_door)
        super().run()

    def _mind_the_door(self) -> None:
        while True:
            if self._waits_for_successor and self.seat.has_successor:
                self._service().leave()
                self.part()
            # As of the last look is soon enough for connections that are there, and costs a request nothing.
            self._accepts = self._service().accepts
            for server in self._servers:
                server.look()
            gevent.sleep(_LOOK_S)

    def notify(self) -> None:
        """Called by the hub every second: ends a worker whose master has gone, and tells the watchdog that the hub is
        not stuck.
        """
        super().notify()
        self._service().beat()

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
        """All requests of a connection. gunicorn's `keepalive` is the time for each head, idle time before included."""
        # Nor does a client that does not read hold up a drain for longer than the drain may take.
        connection = Connection(client, self._turns, send_timeout_s=self.cfg.graceful_timeout)
        self._waiting.add(connection)
        try:
            super().handle(listener, connection, addr)
        finally:
            self._waiting.discard(connection)

    def _make_room(self) -> None:
        """All connections are taken: one that asks for nothing goes, lest a thousand idle ones keep everybody out."""
        ended, now_s = self._waiting.end_longest(), time.monotonic()
        if ended and now_s > self._told_at_s + _TELL_AGAIN_S:
            self._told_at_s = now_s
            logger.warning("all connections are taken: those that wait longest for a request are closed")

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:  # noqa: ANN401
        """Answer one request; raises StopIteration when the connection ends with it, as gunicorn expects.

        A body that was not wanted to its end closes the connection: gunicorn would read it all, to find the next
        request behind it.
        """
        self._waiting.discard(sock)
        sock.end_turn_if_due()
        answer, environ = create(req, sock, addr, listener_name, self.cfg, response_class=_WholeAnswer)
        environ["wsgi.multithread"] = True
        chunks = self.wsgi(environ, cast("Any", answer.start_response))
        is_read = _is_read(req.body)
        if not (is_read and self.alive and self._accepts):
            # Whoever asks again should come to a process that serves.
            answer.force_close()
        try:
            for chunk in chunks:
                answer.write(chunk)
            answer.close()
        finally:
            _close(chunks)
        if not is_read:
            sock.linger()
        if answer.should_close():
            raise StopIteration
        self._waiting.add(sock)
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:  # noqa: ANN401
        """Refuse what is not HTTP in the one shape of errors. The connection ends: nobody knows where the next request
        would begin."""
        if not isinstance(exc, Exception):
            # The worker ends, and with it this greenlet.
            return
        error, request_id = from_gunicorn(exc), new_request_id()
        unknown = exc if isinstance(error, InternalError) else None
        level = logging.ERROR if unknown else logging.INFO
        fields = {"code": error.code, "reason": error.message, "request_id": request_id}
        logger.log(level, "a request could not be read", exc_info=unknown, extra=fields)
        client.sendall(last_answer(error, request_id))
        client.linger()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: unready at once, while gunicorn lets the accepted requests finish.

        The first one in a reload is heard when one of the new workers serves, and costs nobody an answer.
        """
        if self.seat.is_replaced and not self._waits_for_successor:
            self._waits_for_successor = True
            return
        self._service().drain()
        super().handle_exit(sig, frame)

    def part(self) -> None:
        """Accept nobody more and close each connection with its next answer; whoever comes waits for the next worker.

        Safe from any thread: the hub looks at `alive` once a second.
        """
        self.alive = False

    def _service(self) -> Service:
        service: Service = cast("Flask", self.wsgi).extensions[SERVICE_EXTENSION]
        return service


def _is_read(body: Any) -> bool:  # noqa: ANN401 - gunicorn's, which its annotations know in part
    """Whether the request ends where reading has stopped."""
    if body.failed:
        return False
    reader = body.reader
    return reader.length == 0 if isinstance(reader, LengthReader) else reader.parser is None


def _close(chunks: Iterable[bytes]) -> None:
    """What WSGI asks of a server, whatever the application has returned."""
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
