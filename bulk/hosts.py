"""How many downloads each host of images may have at once from all machines together. Pure, but for who asks when."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

# Who has not asked for so long is gone, or has nothing to do: its places are free again.
FORGET_S = 60.0


@dataclass(frozen=True, slots=True)
class Need:
    """`busy` downloads of a host are under way, and `wanted` could be, these included."""

    wanted: int
    busy: int


class Hosts(Protocol):
    """Says how many downloads of each host the asker may have under way, from now until it asks again."""

    def ask(self, needs: Mapping[str, Need]) -> dict[str, int]: ...


@dataclass(slots=True)
class _Share:
    granted: int
    busy: int
    asked_s: float

    @property
    def held(self) -> int:
        """What was taken back is in use until its downloads have ended."""
        return max(self.granted, self.busy)


class Places:
    """`limit` downloads of each host, shared out among those who want them; never more, whoever comes or goes."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._shares: defaultdict[str, dict[str, _Share]] = defaultdict(dict)

    def ask(self, asker: str, needs: Mapping[str, Need]) -> dict[str, int]:
        """See `Hosts.ask`."""
        now_s = self._clock()
        return {host: self._grant(self._shares[host], asker, need, now_s) for host, need in needs.items()}

    def forget_idle(self) -> None:
        """Hosts that nobody wants any more take memory."""
        now_s = self._clock()
        for host in [name for name, shares in self._shares.items() if not _current(shares, now_s)]:
            del self._shares[host]

    def _grant(self, shares: dict[str, _Share], asker: str, need: Need, now_s: float) -> int:
        others = {name: share for name, share in _current(shares, now_s).items() if name != asker}
        free = self._limit - sum(share.held for share in others.values())
        even = max(1, self._limit // (len(others) + 1))
        # Below an even part everybody gets what is free; above it only while nobody else is here.
        granted = max(0, min(need.wanted, free, even if others else self._limit))
        shares.clear()
        shares.update(others)
        if need.wanted or need.busy:
            shares[asker] = _Share(granted, need.busy, now_s)
        return granted


def _current(shares: Mapping[str, _Share], now_s: float) -> dict[str, _Share]:
    return {name: share for name, share in shares.items() if now_s - share.asked_s < FORGET_S}
