"""A process beside this one that ends it when it gives no sign of life: for a hang that holds the interpreter lock.

Then no thread of this process runs any Python, a watchdog's neither. A timer in C would run, but it knows the clock
alone and takes a paused process for a stuck one (docs/decisions/0012-watchdog.md).
"""

import ctypes
import faulthandler
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from core.process.sentinel_process import SIGN_BYTES

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("sentinel_process.py")

# One that dies is replaced; one that dies at once, again and again, must not be a storm of processes.
_REPLACED_AFTER_S = 60.0


class Sentinel:
    """For one thread at a time. Begins with the first `alive`; ends with this process, or with `close`."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._next_start_s = clock()

    def alive(self, within_s: float) -> None:
        """A sign of life. Unless the next one comes within `within_s`, pauses not counted, this process ends."""
        if self._process is None and self._clock() >= self._next_start_s:
            self._start()
        pipe = self._process.stdin if self._process is not None else None
        if pipe is None:
            return
        try:
            # All or nothing, and nothing while the pipe is full: then the sentinel has not run for hours.
            pipe.write(math.ceil(within_s).to_bytes(SIGN_BYTES))
        except BrokenPipeError:
            logger.warning("the sentinel has died: another one follows")
            self.close()

    def close(self) -> None:
        """Let the sentinel go, and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate()

    def _start(self) -> None:
        self._next_start_s = self._clock() + _REPLACED_AFTER_S
        # -I and -S: 20 ms and 10 MB. Its environment is empty: it needs no secret. A group of its own, because what a
        # terminal sends to everybody's may come before it has begun to ignore that.
        command = [sys.executable, "-I", "-S", str(_PROGRAM), str(os.getpid())]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
                process_group=0,
            )
        except OSError:
            logger.exception("the sentinel cannot be started")
            return
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)


def end_on_abort() -> None:
    """Have SIGABRT write every thread's stack and end this process, whoever holds the interpreter lock.

    The signal's number is the exit status. `_exit` is the handler itself, and not the signal's default action: that
    would leave the memory, secrets and all, in a core file, and would not end the first process of a container.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    # First what comes after the stacks. One that is enabled already keeps what it has found.
    faulthandler.disable()
    libc.signal(signal.SIGABRT, ctypes.cast(libc._exit, ctypes.c_void_p))
    faulthandler.enable(sys.__stderr__ or 2, all_threads=True)
