"""When to send again: only what can succeed later, with growing random pauses, within attempts and seconds."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from worker.clock import Clock
from worker.errors import RetryableError

Result = TypeVar("Result")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
# A server may ask for a longer pause than our own, and not for an hour.
_LONGEST_RETRY_AFTER_S = 30.0
# A pause may have lasted longer than it should; a socket takes no timeout of zero.
_SHORTEST_ATTEMPT_S = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` and `total_s` bound one call together: no attempt begins that the seconds have no room for."""

    attempts: int
    total_s: float
    clock: Clock
    jitter: Callable[[float, float], float] = random.uniform

    def run(self, attempt: Callable[[float], Result]) -> Result:
        """Return the first success of `attempt(seconds left)`, or raise its last error."""
        until_s = self.clock.monotonic() + self.total_s
        retrying = Retrying(
            sleep=self.clock.sleep,
            wait=lambda state: self.pause_s(state.attempt_number, _error_of(state)),
            stop=lambda state: (
                state.attempt_number >= self.attempts or self.clock.monotonic() + state.upcoming_sleep >= until_s
            ),
            retry=retry_if_exception_type(RetryableError),
            reraise=True,
        )
        return retrying(lambda: attempt(max(_SHORTEST_ATTEMPT_S, until_s - self.clock.monotonic())))

    def pause_s(self, attempt_number: int, error: BaseException | None) -> float:
        """Return the seconds to wait after that attempt: twice as long each time, "equal jitter", so that many
        workers do not come back in step; at least what the server asked for, up to a cap."""
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt_number - 1))
        own_s = self.jitter(longest_s / 2, longest_s)
        asked_s = error.retry_after_s if isinstance(error, RetryableError) else None
        return max(own_s, min(asked_s or 0.0, _LONGEST_RETRY_AFTER_S))

    def once(self) -> "RetryPolicy":
        """The same with a single attempt."""
        return RetryPolicy(1, self.total_s, self.clock, self.jitter)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
