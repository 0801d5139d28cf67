"""What a result says of the backend that gave it: who is sent again, who goes elsewhere, and when a backend is down.

The policy's one home, for a single call and for an item of a batch alike; it reads two properties of the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clip_embedding_client.errors import ClipClientError, RetryableError
from clip_embedding_client.values import Outcome

if TYPE_CHECKING:
    from typing import TypeGuard


def goes_again(outcome: Outcome) -> TypeGuard[RetryableError]:
    """Whether the same backend may do better on it after a pause, in the time that the call has."""
    return isinstance(outcome, RetryableError) and not outcome.is_last


def goes_elsewhere(outcome: Outcome) -> TypeGuard[ClipClientError]:
    """Whether another backend may do better on it: this one is at fault, not the request."""
    return isinstance(outcome, ClipClientError) and outcome.unavailable


def is_down(outcomes: Sequence[Outcome]) -> bool:
    """Whether a call that ended so counts as a failure of its backend: it served no item at all.

    A vector, and a refusal too, show that the service works. One image that no model can take must not make a backend
    look down that has answered for fifteen others, so a single such answer is enough.
    """
    return all(map(goes_elsewhere, outcomes))
