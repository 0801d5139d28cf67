"""The gunicorn worker: gevent holds the connections, and nothing is monkey-patched.

Why not the stock worker: it patches every lock of every library in the process, and native threads that contend
for such a lock hang for good (docs/decisions/0001-gevent-at-the-door.md).
"""

from types import FrameType
from typing import Any, cast

from flask import Flask
from gevent import socket
from gunicorn.workers.ggevent import GeventWorker

from pod import SERVICE_EXTENSION


class UnpatchedGeventWorker(GeventWorker):
    """Turns the listening sockets into gevent's, and leaves threading, socket and ssl as they are."""

    def patch(self) -> None:
        # gunicorn hands over wrappers of its own, which its annotations call sockets.
        listeners = cast("list[Any]", self.sockets)
        self.sockets = [
            socket.socket(listener.FAMILY, socket.SOCK_STREAM, fileno=listener.sock.detach()) for listener in listeners
        ]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: unready at once, while gunicorn lets the accepted requests finish."""
        cast("Flask", self.wsgi).extensions[SERVICE_EXTENSION].drain()
        super().handle_exit(sig, frame)
