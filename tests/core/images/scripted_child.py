"""An image process whose decoder does, on certain bytes, what real ones do on their worst days."""

import os
import signal
import time
from collections.abc import Sequence

import numpy as np

from core.errors import InvalidImage
from core.images import child
from core.images.job import Pixels
from core.images.messages import ChildSettings

SPIN, CRASH, SLOW, BUG, PANIC = b"spin", b"crash", b"slow", b"bug", b"panic"

# No number of a part: whoever takes it for one has lost the thread.
STUCK = "stuck"

# As the time zone, one of the few things of the environment that reach an image process: it ends at its start.
NO_START = "no-start"

# Longer than it takes for a decode to be called slow, shorter than any budget here.
SLOW_S = 1.0


class Panic(BaseException):
    """What libraries written in Rust raise when they have a bug; no `Exception`."""


def _spin(seconds: float) -> None:
    until_s = time.process_time() + seconds
    while time.process_time() < until_s:
        pass


def scripted_decode(settings: ChildSettings) -> child.Decode:
    """Bytes that begin with none of the words are one grey value, as a digit; anything else is no image."""

    def decode(data: bytes) -> Pixels:
        if data.startswith(SPIN):
            _spin(1000.0)
        if data.startswith(CRASH):
            os.kill(os.getpid(), signal.SIGSEGV)
        if data.startswith(BUG):
            raise ZeroDivisionError
        if data.startswith(PANIC):
            raise Panic
        if data.startswith(SLOW):
            _spin(SLOW_S)
        digits = data.lstrip(SLOW)
        if not digits.isdigit() and not data.startswith(b"\xff\xd8"):
            raise InvalidImage
        grey = int(digits) if digits.isdigit() else 0
        return np.full((3, settings.size_px, settings.size_px), grey, dtype=np.uint8)

    return decode


def main(arguments: Sequence[str]) -> None:
    """See `core.images.child.main`."""
    if os.environ.get("TZ") == NO_START:
        os._exit(1)
    child.main(arguments, scripted_decode)
