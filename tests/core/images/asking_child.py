"""An image process that asks the test before it is ready, if it is for slow images: only when it may does it start."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from core.images import child
from core.images.messages import ChildSettings

GO = b"go"

# Only to a process for slow images no image that takes less is slow; see `core.images.pool`.
_FOR_SLOW_ONES_S = 1e6


@contextmanager
def starts(timeout_s: float) -> Iterator[socket.socket]:
    """Each that starts connects here. It goes on when it is sent `GO`, and ends when the connection does."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(_address(os.getpid()))
        listening.listen()
        listening.settimeout(timeout_s)
        yield listening


def _address(service_pid: int) -> str:
    return f"\0starts-of-image-processes-{service_pid}"


def _asking_decode(settings: ChildSettings) -> child.Decode:
    if settings.slow_s > _FOR_SLOW_ONES_S:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(_address(os.getppid()))
            if asking.recv(len(GO)) != GO:
                os._exit(1)
    return child.real_decode(settings)


def main(arguments: Sequence[str]) -> None:
    """See `core.images.child.main`."""
    child.main(arguments, _asking_decode)
