"""Ctrl-C and SIGTERM, which end a run between two rows and never within one."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How long the interpreter may take to see a signal, before it is sent again.
_SEEN_WITHIN_S = 0.2


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
        self.seen = threading.Event()
        self._is_held = False
        self._waiting: int | None = None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        self.seen.set()
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
        with _sent_until_seen(signals):
            yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _sent_until_seen(signals: Signals) -> Iterator[None]:
    """A signal that comes when a read is about to begin is seen when the read ends, which may be never: no input comes
    while somebody waits for this process to end. So another thread, which the signal wakes at once, sends it again."""
    main = threading.main_thread().ident or 0
    wakes, woken = socket.socketpair()
    wakes.setblocking(False)

    def send_until_seen() -> None:
        while numbers := woken.recv(1):
            while not signals.seen.wait(_SEEN_WITHIN_S):
                signal.pthread_kill(main, numbers[0])

    thread = threading.Thread(target=send_until_seen, name="clip-signals", daemon=True)
    with wakes, woken:
        before = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            wakes.close()
            thread.join()
