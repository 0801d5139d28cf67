"""A point in time by which something must be done, on the monotonic clock; and that nobody waits for it any more."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from core.errors import ValidationFailed
from shared_auth.contract import MOST_TIMEOUT_MS

_DIGITS = re.compile(r"[0-9]{1,9}")


class Cancellation:
    """Set once, by whoever learns that the caller has gone. Quick and safe from any thread."""

    __slots__ = ("_lock", "_then", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._then: list[Callable[[], object]] = []

    def cancel(self) -> None:
        """Let every deadline that carries this have passed, and wake those who wait."""
        with self._lock:
            self.cancelled = True
            then, self._then = self._then, []
        for call in then:
            call()

    def then(self, call: Callable[[], object]) -> None:
        """Have `call`, which must be quick, called on cancellation; at once if that has been."""
        with self._lock:
            if not self.cancelled:
                self._then.append(call)
                return
        call()


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """`at_s` is a reading of `time.monotonic()`, in seconds. A cancelled one has passed."""

    at_s: float
    cancellation: Cancellation | None = field(default=None, compare=False)

    @classmethod
    def after(cls, seconds: float, cancellation: Cancellation | None = None) -> "Deadline":
        """The deadline `seconds` from now."""
        return cls(time.monotonic() + seconds, cancellation)

    def remaining_s(self) -> float:
        """Seconds left; zero once the deadline has passed, never negative."""
        if self.cancelled:
            return 0.0
        return max(0.0, self.at_s - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether it has passed because nobody waits any more."""
        return self.cancellation is not None and self.cancellation.cancelled

    @property
    def expired(self) -> bool:
        return self.remaining_s() == 0.0


def parse_timeout_ms(value: object, name: str) -> int | None:
    """Return a caller's time budget in milliseconds, given as an integer or as its digits; None when not given.

    Raises `ValidationFailed`, which says `name`, on anything else than 1 to 999,999,999.
    """
    if value is None:
        return None
    # int() takes " 17", "+17" and full-width digits too: hence the pattern. And a bool is an int.
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is not int or not 1 <= value <= MOST_TIMEOUT_MS:
        raise ValidationFailed(f"{name}: must be a whole number of milliseconds, from 1 to {MOST_TIMEOUT_MS}")
    return value
