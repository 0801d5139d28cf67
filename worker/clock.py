"""Time as an argument: what the client asks of it, so that tests neither wait nor patch."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` is Unix seconds, for signatures; `monotonic` counts seconds, for limits; `sleep` waits seconds."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
