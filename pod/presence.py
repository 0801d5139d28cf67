"""Tells, while a request runs on its thread, that its client has closed the connection."""

import select
from typing import Any

from gevent import get_hub

from core.deadline import Cancellation
from pod.connection import Connection

_READ = 1  # libev's name for "there is something to read", which the end of a stream is
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class cancelled_when_gone:  # noqa: N801 - used as a function is
    """Cancel as soon as the peer of `client` closes; a callback on the hub, nothing waits.

    A client that only ends its own sending (half a close) counts as gone: no HTTP client does that and waits.
    """

    __slots__ = ("_cancellation", "_client", "_watcher")

    def __init__(self, client: Connection, cancellation: Cancellation) -> None:
        self._client = client
        self._cancellation = cancellation
        self._watcher: Any = get_hub().loop.io(client.fileno(), _READ)

    def __enter__(self) -> None:
        self._watcher.start(self._look)

    def __exit__(self, *_error: object) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _look(self) -> None:
        # Once is enough: it is gone, or it has sent its next request already and cannot be watched that way.
        self._watcher.stop()
        if _is_gone(self._client.fileno()):
            self._cancellation.cancel()


def _is_gone(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, _GONE)
    return bool(poll.poll(0))
