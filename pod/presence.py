"""Tells, while a request runs on its thread, that its client has closed the connection."""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gevent import get_hub

from core.deadline import Cancellation

_READ = 1  # libev's name for "there is something to read", which the end of a stream is
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR


@contextmanager
def cancelled_when_gone(client: Any, cancellation: Cancellation) -> Iterator[None]:  # noqa: ANN401 - gevent's socket
    """Cancel as soon as the peer of `client` closes; a callback on the hub, nothing waits. None watches nothing.

    A client that only ends its own sending (half a close) counts as gone: no HTTP client does that and waits.
    """
    if client is None:
        yield
        return
    watcher = get_hub().loop.io(client.fileno(), _READ)

    def look() -> None:
        # Once is enough: it is gone, or it has sent its next request already and cannot be watched that way.
        watcher.stop()
        if _is_gone(client.fileno()):
            cancellation.cancel()

    watcher.start(look)
    try:
        yield
    finally:
        watcher.stop()
        watcher.close()


def _is_gone(descriptor: int) -> bool:
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, _GONE)
    return bool(poll.poll(0))
