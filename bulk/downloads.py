"""Which downloads begin, and when: as soon as their host has a place for them. Knows nothing of what they bring."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from bulk.hosts import Hosts, Need

logger = logging.getLogger(__name__)

# How soon places that another machine has given back are asked for.
_ASK_AGAIN_S = 0.2


class Download(Protocol):
    """`host` has one place less while it is under way."""

    @property
    def host(self) -> str: ...


Started = TypeVar("Started", bound=Download)


class Downloads(Generic[Started]):
    """Thread-safe. Gives what may begin to `begin`, on a thread of its own, `most` of all hosts together."""

    def __init__(self, hosts: Hosts, begin: Callable[[Sequence[Started]], object], *, most: int) -> None:
        self._hosts = hosts
        self._begin = begin
        self._most = most
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Started]] = {}
        self._busy: Counter[str] = Counter()
        self._granted: dict[str, int] = {}
        self._asked_s = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._begin_all, name="begin-downloads", daemon=True)
        self._thread.start()

    def add(self, downloads: Sequence[Started]) -> None:
        """These wait for places of their hosts."""
        with self._changed:
            for download in downloads:
                self._waiting.setdefault(download.host, deque()).append(download)
            self._changed.notify_all()

    def ended(self, downloads: Sequence[Started]) -> None:
        """These have been begun, and are no more under way."""
        with self._changed:
            self._busy.subtract(download.host for download in downloads)
            self._busy = +self._busy
            self._changed.notify_all()

    def close(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _begin_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting or self._granted)
                self._changed.wait_for(lambda: self._closing or self._may_begin(), _ASK_AGAIN_S)
                if self._closing:
                    return
                ready = self._take_ready()
                needs = self._needs() if self._asks_now() else None
            if ready:
                self._begin(ready)
            if needs is not None:
                self._ask(needs)

    def _may_begin(self) -> bool:
        """Whether something waits whose host has a place, or has not been asked about."""
        return self._busy.total() < self._most and any(
            host not in self._granted or self._free_places(host) > 0 for host in self._waiting
        )

    def _asks_now(self) -> bool:
        unknown = any(host not in self._granted for host in self._waiting)
        return unknown or time.monotonic() - self._asked_s >= _ASK_AGAIN_S

    def _needs(self) -> dict[str, Need]:
        """Of each host that is or was wanted: who wants it no more says so."""
        hosts = {*self._waiting, *self._busy, *self._granted}
        waiting = {host: len(self._waiting.get(host, ())) for host in hosts}
        return {host: Need(self._busy[host] + waiting[host], self._busy[host]) for host in hosts}

    def _ask(self, needs: dict[str, Need]) -> None:
        self._asked_s = time.monotonic()
        try:
            granted = self._hosts.ask(needs)
        except Exception:
            # Whoever shares the places out is not there for a moment: what was granted holds on.
            logger.exception("nobody says how many downloads each host may have")
            return
        with self._changed:
            self._granted = {host: places for host, places in granted.items() if needs[host].wanted}

    def _free_places(self, host: str) -> int:
        """A host that is slow takes no more than half of all: the others have the rest to themselves."""
        return min(self._granted.get(host, 0), max(1, self._most // 2)) - self._busy[host]

    def _take_ready(self) -> list[Started]:
        ready: list[Started] = []
        free = self._most - self._busy.total()
        for host, waiting in list(self._waiting.items()):
            count = max(0, min(len(waiting), self._free_places(host), free - len(ready)))
            ready += [waiting.popleft() for _ in range(count)]
            self._busy[host] += count
            if not waiting:
                del self._waiting[host]
        return ready
