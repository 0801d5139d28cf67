"""For how long something has stood still, counted in looks and not on the clock. Knows no clock and no thread."""


class Stillness:
    """The seconds for which a token has been the same, as far as whoever looks at it could see.

    Each look adds what has passed since the last one, and `most_s` at most. So a pause of any length, of the process or
    of the machine, counts as one look: nobody could move meanwhile, and the clock has no say in whether somebody is
    stuck.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._token: int | None = None
        self.still_s = 0.0

    def look(self, token: int | None, elapsed_s: float) -> float:
        """Return for how long `token` has not changed; 0.0 for a new one, and for None, from which nothing is due."""
        stands = token is not None and token == self._token
        self.still_s = self.still_s + min(elapsed_s, self._most_s) if stands else 0.0
        self._token = token
        return self.still_s
