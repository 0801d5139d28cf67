"""Whose download begins next in an image process. Pure: no thread, no socket.

There are two sorts of places. As many as requests may run belong to requests: each can always have one download under
way, whatever the others wait for. The others are lent: to the request with the fewest downloads under way, from the
host with the fewest, oldest first; a host that has half as many under way gets none of them.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class Download:
    """A download that could begin or is under way; `at_once` is how many its request may have under way."""

    request: Hashable
    host: str
    at_once: int


@dataclass(slots=True)
class Running:
    """The downloads under way. `lent` is how many places there are beside one for each request."""

    lent: int
    of_request: Counter[Hashable] = field(default_factory=Counter)
    of_host: Counter[str] = field(default_factory=Counter)
    count: int = 0

    def begin(self, download: Download) -> None:
        """One more is under way."""
        self.of_request[download.request] += 1
        self.of_host[download.host] += 1
        self.count += 1

    def end(self, download: Download) -> None:
        """One is over."""
        self.count -= 1
        _count_down(self.of_request, download.request)
        _count_down(self.of_host, download.host)

    def may_lend(self, host: str) -> bool:
        """Whether a request that has a download under way may have another one, from `host`."""
        lent = self.count - len(self.of_request)
        return lent < self.lent and self.of_host[host] < max(1, self.lent // 2)


Key = TypeVar("Key", bound=Hashable)


def _count_down(counter: Counter[Key], key: Key) -> None:
    counter[key] -= 1
    if counter[key] == 0:
        del counter[key]


def next_download(waiting: Iterable[Download], running: Running) -> int | None:
    """The position among `waiting` (oldest first) of the download that may begin now; None if none may."""
    best: tuple[int, int, int] | None = None
    for position, download in enumerate(waiting):
        mine = running.of_request[download.request]
        if mine >= download.at_once or (mine and not running.may_lend(download.host)):
            continue
        rank = (mine, running.of_host[download.host], position)
        if best is None or rank < best:
            best = rank
    return None if best is None else best[-1]
