"""Names whose servers are silent, of strangers who leave or wait: the others' lookups do not wait for them.

Nothing here is timed: what hangs does so until the test has seen the others through.
"""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from core.deadline import Cancellation, Deadline
from core.errors import DeadlineExceeded
from core.images.fetch.addresses import IpAddress
from core.images.fetch.allowlist import AllowList
from core.images.fetch.fetcher import Fetcher, FetchLimits
from core.images.fetch.hosts import site_of
from core.images.fetch.resolver import Lookups
from tests.core.images.fetch.fakes import PUBLIC, Wires, soon
from tests.core.images.fetch.servers import Visitor, answer, redirect, serve
from tests.core.images.fetch.test_abandoned import Watched

NET_S = 120.0
LONG_S = 600.0
LIMITS = FetchLimits(max_bytes=1000, timeout_s=LONG_S)


@dataclass
class Silence:
    """A resolver that hangs for names with `hung` in them, until it is over."""

    over: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)
    _entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self, host: str, _port: int) -> list[IpAddress]:
        if "hung" in host:
            self.begun.append(host)
            self._entered.release()
            self.over.wait(LONG_S)
        return [ip_address(PUBLIC)]

    def wait_for(self, lookups: int) -> None:
        for _ in range(lookups):
            assert self._entered.acquire(timeout=NET_S)


@pytest.fixture
def silence() -> Iterator[Silence]:
    """Over with the test."""
    silence = Silence()
    yield silence
    silence.over.set()


def good_or_elsewhere(visitor: Visitor) -> None:
    """An image, unless the target of a redirect is asked for."""
    target = visitor.request().split(b" ")[1].decode()
    visitor.send(redirect(f"http:/{target}/") if "hung" in target else answer(b"image"))


def ask_for(fetcher: Fetcher, urls: list[str]) -> tuple[Cancellation, list[threading.Thread]]:
    """Downloads of one request, under way."""
    cancellation = Cancellation()

    def fetch(url: str) -> None:
        with pytest.raises(DeadlineExceeded):
            fetcher.fetch(url, deadline=Deadline.after(LONG_S, cancellation))

    threads = [threading.Thread(target=fetch, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    return cancellation, threads


@pytest.mark.parametrize("redirected", [pytest.param(False, id="at-once"), pytest.param(True, id="by-redirect")])
@pytest.mark.parametrize("leaves", [pytest.param(True, id="leaves"), pytest.param(False, id="waits")])
def test_names_of_one_request_that_hang(leaves: bool, redirected: bool, silence: Silence) -> None:
    """Whoever asks for sixteen, and leaves or waits, keeps nobody else's image."""
    names = [f"hung{number}.test" for number in range(16)]
    urls = [f"http://elsewhere.test/{name}" if redirected else f"http://{name}/" for name in names]
    with serve(good_or_elsewhere) as server:
        wires = Wires(server.port)
        with closing(Fetcher(LIMITS, AllowList(), resolve=silence, connect=wires)) as fetcher:
            cancellation, threads = ask_for(fetcher, urls)
            silence.wait_for(16)
            if leaves:
                cancellation.cancel()
                for thread in threads:
                    thread.join(NET_S)
            body = fetcher.fetch("http://good.test/", deadline=soon())
            cancellation.cancel()
            for thread in threads:
                thread.join(NET_S)

    assert b"image" == body


def hang(lookups: Lookups, host: str) -> None:
    """Look a name up, and leave it behind."""
    with pytest.raises(TimeoutError):
        lookups.addresses(host, 80, Deadline.after(0.05))


def test_names_of_one_site_that_hang(silence: Silence) -> None:
    """However many they are, they hold their site's share of the places; it is given back."""
    lookups = Lookups(silence, max_lookups=16)
    for number in range(16):
        hang(lookups, f"{number}.hung.test")
    others = [lookups.addresses(f"{number}.test", 80, soon()) for number in range(20)]
    hanging = len(silence.begun)
    silence.over.set()

    assert [[ip_address(PUBLIC)]] * 20 == others
    assert 2 == hanging
    assert [ip_address(PUBLIC)] == lookups.addresses("17.hung.test", 80, soon())


def test_who_waits_for_its_site_holds_no_place_of_the_others(silence: Silence) -> None:
    """A name that waits behind a hung one of its own site is no lookup yet."""
    lookups, gone = Lookups(silence, max_lookups=2), Watched()

    def wait() -> None:
        with pytest.raises(TimeoutError):
            lookups.addresses("2.hung.test", 80, Deadline.after(LONG_S, gone))

    hang(lookups, "1.hung.test")
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert gone.is_asked_again()
    addresses = lookups.addresses("good.test", 80, soon())
    gone.cancel()
    waiting.join(NET_S)

    assert [ip_address(PUBLIC)] == addresses
    assert ["1.hung.test"] == silence.begun


@pytest.mark.parametrize(
    ("host", "site"),
    [
        pytest.param("example.com", "example.com", id="itself"),
        pytest.param("a.b.example.com", "example.com", id="below"),
        pytest.param("images.example.co.uk", "example.co.uk", id="registry's second level"),
        pytest.param("a.example.com.br", "example.com.br", id="another one"),
        pytest.param("co.uk", "co.uk", id="second level alone"),
        pytest.param("a.b.co.example", "co.example", id="no country"),
        pytest.param("a.b.t.co", "t.co", id="short name"),
        pytest.param("localhost", "localhost", id="one label"),
    ],
)
def test_site(host: str, site: str) -> None:
    """The part of a name that somebody has registered, as far as that can be told."""
    assert site == site_of(host)
