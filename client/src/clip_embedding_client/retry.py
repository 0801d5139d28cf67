"""When to send again: only what can succeed later, with growing random pauses, within attempts and seconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import Flow, Pause
from clip_embedding_client.errors import RetryableError

if TYPE_CHECKING:
    from clip_embedding_client.events import Events

Attempt = Callable[[float], "Flow[Sequence[RetryableError]]"]
"""(seconds left) -> the errors that are worth another attempt; none when there is nothing left to do."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
# Far beyond the longest pause; without an end the power of a patient caller's attempts is no number of seconds.
_MOST_DOUBLINGS = 10
# A server may ask for a longer pause than our own, and not for an hour.
_LONGEST_RETRY_AFTER_S = 30.0
# In less time no backend answers; and a socket takes no timeout of zero.
_SHORTEST_ATTEMPT_S = 0.1


@dataclass(frozen=True, slots=True)
class Budget:
    """What one call may take: attempts at one backend, and when, on the monotonic clock, it has to be over."""

    attempts: int
    until_s: float


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Of all calls; each has a `Budget`: no attempt begins that its seconds have no room for."""

    clock: Clock
    events: Events
    jitter: Callable[[float, float], float] = field(default=random.uniform)

    def has_room(self, until_s: float) -> bool:
        """Whether an attempt may still begin."""
        return self._left_s(until_s) >= _SHORTEST_ATTEMPT_S

    def run(self, attempt: Attempt, budget: Budget, backend: str) -> Flow[None]:
        """Make attempts until one reports nothing, or attempts or seconds end. The first one is always made."""
        number = 1
        # A pause may have lasted longer than it should.
        while errors := (yield from attempt(max(_SHORTEST_ATTEMPT_S, self._left_s(budget.until_s)))):
            pause_s = self.pause_s(number, errors)
            if number >= budget.attempts or not self.has_room(budget.until_s - pause_s):
                return
            self.events.retried(backend, errors, number, pause_s)
            yield Pause(pause_s)
            number += 1

    def pause_s(self, attempt_number: int, errors: Sequence[RetryableError]) -> float:
        """Return the seconds to wait after that attempt: twice as long each time, "equal jitter", so that many
        clients do not come back in step; at least what the server asked for, up to a cap."""
        longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt_number - 1, _MOST_DOUBLINGS))
        own_s = self.jitter(longest_s / 2, longest_s)
        asked_s = max((error.retry_after_s or 0.0 for error in errors), default=0.0)
        return max(own_s, min(asked_s, _LONGEST_RETRY_AFTER_S))

    def _left_s(self, until_s: float) -> float:
        return until_s - self.clock.monotonic()
