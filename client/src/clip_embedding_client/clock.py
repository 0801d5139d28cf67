"""Time as an argument: what the client asks of it, so that tests neither wait nor patch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


def _sleep(seconds: float, left: threading.Event | None) -> None:
    if left is None:
        time.sleep(seconds)
    else:
        left.wait(seconds)


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` is Unix seconds, for signatures; `monotonic` counts seconds, for limits; `sleep` and `asleep` wait seconds,
    the one in a thread, until an event if there is one, and the other in an event loop."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float, threading.Event | None], None] = _sleep
    asleep: Callable[[float], Awaitable[None]] = asyncio.sleep
