"""Which downloads begin: within what their hosts have, within what there is in all, and never all of one host."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest

from bulk.downloads import Downloads
from bulk.hosts import Need

SOON_S = 60.0
MOST = 8


@dataclass(frozen=True, slots=True)
class One:
    """A download that brings nothing."""

    host: str


class Generous:
    """Grants whatever is wanted."""

    def ask(self, needs: Mapping[str, Need]) -> dict[str, int]:
        return {host: need.wanted for host, need in needs.items()}


class Away:
    """Nobody says anything."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def ask(self, needs: Mapping[str, Need]) -> dict[str, int]:
        self.asked.set()
        raise ConnectionError


class Begun:
    """What is under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.under_way: list[One] = []
        self.most_of = Counter[str]()
        self.most = 0

    def begin(self, downloads: Sequence[One]) -> None:
        with self._changed:
            self.under_way += downloads
            self.most = max(self.most, len(self.under_way))
            self.most_of |= Counter(one.host for one in self.under_way)
            self._changed.notify_all()

    def wait_for(self, host: str, count: int) -> list[One]:
        """Take so many of a host out, as if they had ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: Counter(map(_host, self.under_way))[host] >= count, SOON_S)
            ended = [one for one in self.under_way if one.host == host][:count]
            for one in ended:
                self.under_way.remove(one)
        return ended


def _host(one: One) -> str:
    return one.host


@pytest.fixture
def begun() -> Begun:
    return Begun()


@pytest.fixture
def downloads(begun: Begun) -> Iterator[Downloads[One]]:
    with closing(Downloads[One](Generous(), begun.begin, most=MOST)) as made:
        yield made


def test_slow_host_leaves_half_to_the_others(downloads: Downloads[One], begun: Begun) -> None:
    """However much waits for it, and however often the others' downloads end."""
    downloads.add([One("slow")] * 20)
    downloads.add([One("quick")] * 20)
    for _ in range(20):
        downloads.ended(begun.wait_for("quick", 1))

    assert MOST // 2 == begun.most_of["slow"]
    assert begun.most <= MOST


def test_never_more_than_there_is_in_all(downloads: Downloads[One], begun: Begun) -> None:
    """Of many hosts together; what ends makes room for the next, until all have been."""
    downloads.add([One(str(number)) for number in range(50)])
    for number in range(50):
        downloads.ended(begun.wait_for(str(number), 1))

    assert MOST == begun.most


def test_nobody_grants_anything(begun: Begun) -> None:
    """While nobody can be asked nothing begins, and whoever asks lives on."""
    hosts = Away()
    with closing(Downloads[One](hosts, begun.begin, most=MOST)) as downloads:
        downloads.add([One("any")])
        for _ in range(2):
            hosts.asked.clear()
            assert hosts.asked.wait(SOON_S)

    assert [] == begun.under_way
