"""The gunicorn worker: gevent holds the connections, and nothing is monkey-patched.

Why not the stock worker: it patches every lock of every library in the process, and native threads that contend
for such a lock hang for good (docs/decisions/0001-gevent-at-the-door.md).
"""

from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, cast

from flask import Flask
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker

from core.service import Service
from pod import SERVICE_EXTENSION


@dataclass(frozen=True)
class _Name:
    """Stands for a listener where gunicorn asks for its name with each connection, also after it is closed."""

    name: Any

    def getsockname(self) -> Any:  # noqa: ANN401 - depends on the address family
        return self.name


class SweepingServer(StreamServer):
    """Answers also those who have connected but are not accepted yet when it closes: the kernel would reset them."""

    def close(self) -> None:
        while not self.closed and not self.full() and (accepted := self.do_read()):
            self.do_handle(*accepted)
        super().close()


class UnpatchedGeventWorker(GeventWorker):
    """Turns the listening sockets into gevent's, and leaves threading, socket and ssl as they are."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - gunicorn is untyped
        super().__init__(*arguments, **options)
        # gunicorn calls it with what its own kind of server needs; ours needs the socket and the pool.
        self.server_class = self._make_server  # type: ignore[assignment,misc]

    def _make_server(self, listener: socket.socket, *, spawn: Pool, **_unused: Any) -> SweepingServer:  # noqa: ANN401
        name = cast("socket.socket", _Name(listener.getsockname()))
        return SweepingServer(listener, handle=partial(self.handle, name), spawn=spawn)

    def patch(self) -> None:
        # gunicorn hands over wrappers of its own, which its annotations call sockets.
        listeners = cast("list[Any]", self.sockets)
        self.sockets = [
            socket.socket(listener.FAMILY, socket.SOCK_STREAM, fileno=listener.sock.detach()) for listener in listeners
        ]

    def notify(self) -> None:
        """Called by the hub every second: ends a worker whose master has gone, and tells the watchdog that the hub is
        not stuck.
        """
        super().notify()
        self._service().beat()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: unready at once, while gunicorn lets the accepted requests finish."""
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
