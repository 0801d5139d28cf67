"""What the processes of a pod know of each other: a row each, in memory that they share, which its owner alone writes.

There is no lock, which a process that is killed could keep. Its row is given back by whoever sees it end.
"""

import mmap
from enum import IntEnum

# More than there are ever: what is asked of all of them is asked with each request.
MOST_PROCESSES = 64


class Phase(IntEnum):
    """How far a process is; a row without a process is all zeros."""

    NOBODY = 0
    LOADING = 1
    SERVING = 2
    LEAVING = 3


def accepts(own: Phase, *, others_serve: bool) -> bool:
    """Whether a process takes connections: if it serves, or if nobody does, so that somebody says so."""
    return own is Phase.SERVING or not others_serve


class Siblings:
    """The rows of all. Made before the first fork: whoever is forked from then on shares them."""

    def __init__(self, most: int = MOST_PROCESSES) -> None:
        # Cells of four bytes: each is written as a whole.
        cells = memoryview(mmap.mmap(-1, 3 * 4 * most)).cast("I")
        self.phases, self.running, self.replaced = cells[:most], cells[most : 2 * most], cells[2 * most :]

    def seat(self) -> "Seat":
        """A free row, for a process that is about to start; taken at once."""
        return Seat(self, self.phases.tolist().index(Phase.NOBODY))

    def free(self, seat: "Seat") -> None:
        """Take a row back, with all that its process held; only when that has ended."""
        self.running[seat.row] = self.replaced[seat.row] = 0
        self.phases[seat.row] = Phase.NOBODY

    def replace_all(self) -> None:
        """Mark those who are here: who comes from now on is to take their place."""
        for row, phase in enumerate(self.phases):
            self.replaced[row] = phase != Phase.NOBODY

    @property
    def processes(self) -> int:
        """How many there are, whatever their phase."""
        return len(self.phases) - self._count(Phase.NOBODY)

    @property
    def serving(self) -> int:
        """How many of them serve."""
        return self._count(Phase.SERVING)

    @property
    def requests(self) -> int:
        """How many requests hold a place, in all of them together."""
        return sum(self.running)

    def _count(self, phase: Phase) -> int:
        # A list's own count: a loop in Python over all rows would cost each request 20 microseconds.
        return self.phases.tolist().count(phase)


class Seat:
    """One process's row. `take_place` and `give_place_back` are for one thread at a time."""

    def __init__(self, siblings: Siblings, row: int) -> None:
        self.siblings = siblings
        self.row = row
        self.show(Phase.LOADING)

    def show(self, phase: Phase) -> None:
        """Tell the others. Safe in a signal handler."""
        self._phase = phase
        self.siblings.phases[self.row] = phase

    def take_place(self, most: int) -> bool:
        """Count one request more, unless all processes together would have more than `most`.

        Counted first and looked at then, so that there are never more. Two that reach for the last place in the same
        microsecond may both be refused.
        """
        self.siblings.running[self.row] += 1
        if self.siblings.requests <= most:
            return True
        self.give_place_back()
        return False

    def give_place_back(self) -> None:
        self.siblings.running[self.row] -= 1

    @property
    def requests(self) -> int:
        """How many requests hold a place in this process."""
        return self.siblings.running[self.row]

    @property
    def accepts(self) -> bool:
        """See `accepts`."""
        own = self._phase
        return accepts(own, others_serve=self.siblings.serving > (own is Phase.SERVING))

    @property
    def is_replaced(self) -> bool:
        """Whether others have been started in this one's place."""
        return self.siblings.replaced[self.row] != 0

    @property
    def has_successor(self) -> bool:
        """Whether one of those serves."""
        rows = zip(self.siblings.phases, self.siblings.replaced, strict=True)
        return any(phase == Phase.SERVING and not replaced for phase, replaced in rows)
