"""How many items one forward pass may hold: less after the device ran out of memory, more again after a while."""

# Growing back costs one failed pass if memory is still short, and no item: once in this many passes is nothing.
GROW_AFTER_BATCHES = 500


class BatchLimit:
    """Of one engine and one modality; used by that engine's thread alone. `now` is the limit, at least 1.

    It grows back because the memory may have been another process's; a limit that stays small until the next restart
    would cost throughput for days.
    """

    def __init__(self, maximum: int) -> None:
        self.now = maximum
        self._maximum = maximum
        self._went_well = 0

    def ran_out(self, size: int) -> None:
        """A pass with `size` items did not fit: from now on at most half of that."""
        self.now = max(1, min(self.now, size // 2))
        self._went_well = 0

    def went_well(self, size: int) -> None:
        """A pass with `size` items fitted. Enough full ones in a row double the limit."""
        if size < self.now or self.now == self._maximum:
            return
        self._went_well += 1
        if self._went_well == GROW_AFTER_BATCHES:
            self.now = min(2 * self.now, self._maximum)
            self._went_well = 0
