"""Where a client stands with a limit of its own: what an answer's headers say."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """In items or in bytes, whichever is scarcer. `reset_s` is when all of `limit` is there again if nothing more is
    asked: whole seconds from now.
    """

    limit: int
    remaining: int
    reset_s: int
