"""How the starts of image processes of one kind go: when the next one is worth it, and when none is any more."""

from dataclasses import dataclass

# One that dies before it is ready will not do better at once; so many in a row, and the cause is none of theirs.
MOST_DEAD = 8
_MOST_DELAY_S = 5.0


@dataclass(slots=True)
class Starts:
    """`dead` is how many in a row have failed. Who has given up has done so for good."""

    dead: int = 0

    @property
    def given_up(self) -> bool:
        return self.dead >= MOST_DEAD

    @property
    def delay_s(self) -> float:
        """Before the next one."""
        return min(0.1 * 2.0**self.dead, _MOST_DELAY_S) if self.dead else 0.0

    def note(self, *, ready: bool) -> None:
        """One has become ready, or has died before it was, or could not even begin."""
        if not self.given_up:
            self.dead = 0 if ready else self.dead + 1
