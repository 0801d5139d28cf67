"""What a fuzz run found."""

from collections import Counter
from dataclasses import dataclass, field

# Allocators keep some of what they had at their peak; a leak of a few KB per input is far more than this.
MAX_GROWN_MB = 100.0


@dataclass(slots=True)
class FuzzReport:
    """`faults` are outcomes that must not be, each with what is needed to see it again; `deaths` ended processes."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    deaths: int = 0
    grown_mb: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.faults and self.deaths == 0 and self.grown_mb < MAX_GROWN_MB
