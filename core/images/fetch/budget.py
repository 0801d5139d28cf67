"""The time one download may take, how long one wait of it may be, and which error says that it ran out."""

from dataclasses import dataclass

from core.deadline import Deadline
from core.errors import DeadlineExceeded, DownloadTimeout

# How soon a download that nobody waits for any more is given up: until then it has a thread, which others may want.
_LOOK_S = 1.0


@dataclass(frozen=True)
class TimeBudget:
    """`own` ends by the download's own limit, `request` by that of the request it belongs to."""

    own: Deadline
    request: Deadline

    @property
    def ends(self) -> Deadline:
        return min(self.own, self.request)

    def error(self) -> DownloadTimeout | DeadlineExceeded:
        return DeadlineExceeded() if self.request <= self.own else DownloadTimeout()


def time_left_s(ends: Deadline) -> float:
    """Raises `TimeoutError` instead of zero, which would mean "do not wait" to a socket."""
    left_s = ends.remaining_s()
    if left_s == 0.0:
        raise TimeoutError("the deadline has passed")
    return left_s


def next_wait_s(ends: Deadline) -> float:
    """How long to wait before asking this again: a cancellation is noticed only then. Raises `TimeoutError`."""
    return min(time_left_s(ends), _LOOK_S)
