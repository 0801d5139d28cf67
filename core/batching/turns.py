"""Decoding and forward passes take turns where they need the same cores.

A pass on a CPU splits every layer over all cores and waits for the slowest part; a decode that runs beside it holds
one core for a moment, and all the others wait. One after the other both are done sooner
(docs/decisions/0032-turns-on-a-cpu.md).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A pass waits this long for images that are about to be decoded: some dozens of usual ones, and no longer for a
# stranger's that takes seconds. It then begins beside it.
_PATIENCE_S = 0.25


class Turns:
    """Decodes run together, and no pass beside them; a decode waits for the pass that runs. From any thread.

    Not `shared`: device and decoder have cores of their own, and nobody waits.
    """

    def __init__(self, *, shared: bool, patience_s: float = _PATIENCE_S) -> None:
        self._shared = shared
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._announced = 0
        self._decoding = 0
        self._computing = False
        # Of the pass that waits, if one does: whether its batch is full already.
        self._is_full: Callable[[], bool] | None = None

    def announce(self) -> None:
        """A decode could begin now. Each one is settled by `retract`, whatever comes of it."""
        with self._changed:
            self._announced += 1

    def retract(self) -> None:
        """An announced decode is over, or will never begin."""
        with self._changed:
            self._announced -= 1
            self._changed.notify_all()

    def look_again(self) -> None:
        """What the pass that waits goes by has changed."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Around an announced decode: waits until no pass runs."""
        with self._changed:
            self._changed.wait_for(self._may_decode)
            self._decoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify_all()

    @contextmanager
    def computing(self, is_full: Callable[[], bool]) -> Iterator[None]:
        """Around a pass: lets announced images be decoded first, so that they can come along, until `is_full`."""
        with self._changed:
            if self._shared:
                self._is_full = is_full
                self._changed.wait_for(self._may_compute, timeout=self._patience_s)
                self._is_full = None
                self._computing = True
        try:
            yield
        finally:
            with self._changed:
                self._computing = False
                self._changed.notify_all()

    def end(self) -> None:
        """Nobody waits any more: the device is lost, or the service closes."""
        with self._changed:
            self._shared = False
            self._changed.notify_all()

    def _may_decode(self) -> bool:
        if not self._shared:
            return True
        return not self._computing and not self._pass_is_full()

    def _may_compute(self) -> bool:
        none_to_come = self._announced <= self._decoding or self._pass_is_full()
        return not self._shared or (self._decoding == 0 and none_to_come)

    def _pass_is_full(self) -> bool:
        return self._is_full is not None and self._is_full()


class Arrivals:
    """The images of one request on their way to the device, `count` of them.

    Each stops counting as announced when its decode is over, but for the last: that one stands for the request until
    the batcher has it, or a pass would begin in between without it.
    """

    def __init__(self, turns: Turns, count: int) -> None:
        self._turns = turns
        self._left = count
        self._lock = threading.Lock()
        self._last_is_announced = False
        self._queued = False

    @contextmanager
    def downloading(self) -> Iterator[None]:
        """Around a download: one that fails has nothing to decode."""
        try:
            yield
        except BaseException:
            with self._lock:
                self._left -= 1
            raise

    def announce(self) -> None:
        """An image could be decoded now."""
        self._turns.announce()

    def decoded(self) -> None:
        """The decode of an announced image is over, or will never begin."""
        with self._lock:
            self._left -= 1
            self._last_is_announced = self._left == 0 and not self._queued
            if self._last_is_announced:
                return
        self._turns.retract()

    def queued(self) -> None:
        """What there is of the request is in the batcher's queue, or never will be."""
        with self._lock:
            self._queued = True
            announced, self._last_is_announced = self._last_is_announced, False
        if announced:
            self._turns.retract()
