"""When to send again: only what can succeed later, with growing random pauses, within attempts and seconds."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, retry_if_result

from worker.clock import Clock
from worker.errors import RetryableError

Attempt = Callable[[float], Sequence[RetryableError]]
"""(seconds left) -> the errors that are worth another attempt; none when there is nothing left to do."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
# A server may ask for a longer pause than our own, and not for an hour.
_LONGEST_RETRY_AFTER_S = 30.0
# In less time no backend answers; and a socket takes no timeout of zero.
_SHORTEST_ATTEMPT_S = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` bounds those at one backend, `total_s` all of one call at all backends with the pauses between them:
    no attempt begins that the seconds have no room for."""

    attempts: int
    total_s: float
    clock: Clock
    jitter: Callable[[float, float], float] = random.uniform

    def until_s(self) -> float:
        """Return when a call that begins now has to be over, on the monotonic clock."""
        return self.clock.monotonic() + self.total_s

    def has_room(self, until_s: float) -> bool:
        """Whether an attempt may still begin."""
        return self._left_s(until_s) >= _SHORTEST_ATTEMPT_S

    def run(self, attempt: Attempt, until_s: float) -> None:
        """Call `attempt` until it reports nothing, or attempts or seconds end. The first one is always made."""
        retrying = Retrying(
            sleep=self.clock.sleep,
            wait=lambda state: self.pause_s(state.attempt_number, _errors_of(state)),
            stop=lambda state: (
                state.attempt_number >= self.attempts or not self.has_room(until_s - state.upcoming_sleep)
            ),
            retry=retry_if_result(bool),
            retry_error_callback=_errors_of,
        )
        # A pause may have lasted longer than it should.
        retrying(lambda: attempt(max(_SHORTEST_ATTEMPT_S, self._left_s(until_s))))

    def pause_s(self, attempt_number: int, errors: Sequence[RetryableError]) -> float:
        """Return the seconds to wait after that attempt: twice as long each time, "equal jitter", so that many
        workers do not come back in step; at least what the server asked for, up to a cap."""
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt_number - 1))
        own_s = self.jitter(longest_s / 2, longest_s)
        asked_s = max((error.retry_after_s or 0.0 for error in errors), default=0.0)
        return max(own_s, min(asked_s, _LONGEST_RETRY_AFTER_S))

    def _left_s(self, until_s: float) -> float:
        return until_s - self.clock.monotonic()


def _errors_of(state: RetryCallState) -> Sequence[RetryableError]:
    return state.outcome.result() if state.outcome else ()
