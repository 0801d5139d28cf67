"""How the starts of image processes of one kind go: when the next one is worth it, and when none is any more."""

from dataclasses import dataclass

# One that dies before it is ready will not do better at once; so many in a row, and the cause is none of theirs.
_MOST_DEAD = 8
# Where there are many, all of them may be unlucky once, in the same moment.
_MOST_DEAD_OF_EACH = 2
_MOST_DELAY_S = 5.0


@dataclass(slots=True)
class Starts:
    """Of at most so many `processes`. `dead` is how many starts in a row have failed; giving up is for good."""

    processes: int
    dead: int = 0

    @property
    def given_up(self) -> bool:
        return self.dead >= max(_MOST_DEAD, _MOST_DEAD_OF_EACH * self.processes)

    @property
    def delay_s(self) -> float:
        """Before the next one."""
        return min(0.1 * 2.0**self.dead, _MOST_DELAY_S) if self.dead else 0.0

    def note(self, *, ready: bool) -> None:
        """One has become ready, or has died before it was, or could not even begin."""
        if not self.given_up:
            self.dead = 0 if ready else self.dead + 1
