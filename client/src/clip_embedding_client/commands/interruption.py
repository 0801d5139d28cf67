"""Ctrl-C and SIGTERM, which end a run between two rows and never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Somebody ends this process. `status` is what a shell expects of it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


class Signals:
    """Raises `Interrupted` where one arrives; in a `held` block, at the end of it.

    `keep` is called before: what is raised has to wait for requests that are on their way, and whoever sent SIGTERM
    may not wait so long.
    """

    def __init__(self) -> None:
        self.keep: Callable[[], object] | None = None
        self._is_held = False
        self._waiting: int | None = None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        if self._is_held:
            self._waiting = signum
            return
        self._end(signum)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block end first: half a row in a file, or one that is there twice, could not be gone on with."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        signum, self._waiting = self._waiting, None
        if signum is not None:
            self._end(signum)

    def _end(self, signum: int) -> NoReturn:
        keep, self.keep = self.keep, None
        if keep is not None:
            with self.held():
                keep()
        raise Interrupted(signum)


@contextmanager
def interruptible() -> Iterator[Signals]:
    """Take both signals until the block ends; outside the main thread none arrive."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {signum: signal.signal(signum, signals.handle) for signum in _SIGNALS}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
