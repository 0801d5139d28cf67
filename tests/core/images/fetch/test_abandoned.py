"""A download that nobody waits for any more ends by itself, whatever it waits for.

Nothing here is timed: each download has ten minutes, and what it waits for does not come while the test looks.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from core.deadline import Cancellation, Deadline
from core.errors import DeadlineExceeded, ServiceError
from core.images.fetch.addresses import IpAddress
from core.images.fetch.fetcher import Fetcher, FetchLimits
from tests.core.images.fetch.certificates import Certificates, make_certificates
from tests.core.images.fetch.fakes import OTHER_PUBLIC, PUBLIC, Names, Wires, fetching, soon
from tests.core.images.fetch.servers import Visitor, answer, redirect, says, serve, silent

NET_S = 120.0
LONG_S = 600.0
LIMITS = FetchLimits(max_bytes=1000, timeout_s=LONG_S)

# The wait may be the first one of a download or that of a later hop.
BOTH_WAYS = pytest.mark.parametrize(
    "redirected", [pytest.param(False, id="at-once"), pytest.param(True, id="by-redirect")]
)


@contextmanager
def led_to(url: str, *, redirected: bool) -> Iterator[str]:
    """`url` itself, or one that redirects to it."""
    if not redirected:
        yield url
        return
    with serve(says(redirect(url))) as server:
        yield server.url()


class Watched(Cancellation):
    """Knows how often it was asked: who only waits with what time there was does not ask again."""

    def __init__(self) -> None:
        self._asked = threading.Semaphore(0)
        super().__init__()

    @property
    def cancelled(self) -> bool:
        self._asked.release()
        return self._cancelled

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._cancelled = value

    def is_asked_again(self) -> bool:
        """Whether it is asked more often, from now on, than a download does on its way into one wait."""
        while self._asked.acquire(blocking=False):
            continue
        return all(self._asked.acquire(timeout=NET_S) for _ in range(3))


def abandoned(fetcher: Fetcher, url: str, is_waiting: Callable[[Watched], bool]) -> BaseException | None:
    """What a download came to that was cancelled once it waited, which `is_waiting` blocks for.

    Raises `TimeoutError` when it does not end.
    """
    cancellation = Watched()
    ended: Future[bytes] = Future()

    def fetch() -> None:
        try:
            ended.set_result(fetcher.fetch(url, deadline=Deadline.after(LONG_S, cancellation)))
        except ServiceError as error:
            ended.set_exception(error)

    threading.Thread(target=fetch, daemon=True).start()
    assert is_waiting(cancellation)
    cancellation.cancel()
    return ended.exception(NET_S)


@dataclass
class Mute:
    """A server that hears something and does not answer it; `left` once the client has closed the connection."""

    heard: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    def stalls(self, visitor: Visitor) -> None:
        visitor.sock.recv(1)
        self._wait_for_end(visitor)

    def stalls_in_body(self, visitor: Visitor) -> None:
        visitor.request()
        visitor.send(answer(b"a" * 1000)[:500])
        self._wait_for_end(visitor)

    def _wait_for_end(self, visitor: Visitor) -> None:
        visitor.sock.settimeout(2 * NET_S)
        self.heard.set()
        with suppress(ConnectionError):  # of a client that has not read everything
            while visitor.sock.recv(65536):
                continue
        self.left.set()

    def drips(self, visitor: Visitor) -> None:
        """The beginning of a record of TLS that never ends."""
        visitor.sock.recv(1)
        self.heard.set()
        with suppress(ConnectionError):
            visitor.drip(b"\x16\x03\x03\x40\x00" + bytes(9000), pause_s=0.02)
        self.left.set()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate for 127.0.0.1."""
    return make_certificates(tmp_path_factory.mktemp("tls"), name="images.test", address="127.0.0.1")


@BOTH_WAYS
@pytest.mark.parametrize("scheme", [pytest.param("http", id="http"), pytest.param("https", id="https")])
def test_connection_that_is_not_answered(scheme: str, redirected: bool) -> None:
    """A host that drops every packet does not keep it, nor its socket."""
    with silent() as port, led_to(port.url(scheme=scheme), redirected=redirected) as url:
        with fetching(limits=LIMITS) as fetcher:
            error = abandoned(fetcher, url, lambda _: port.wait_for_knocks(NET_S))
        knocks = port.knocks()

    assert isinstance(error, DeadlineExceeded)
    assert 0 == knocks


def test_no_other_address_is_tried() -> None:
    """A cancelled connection is not a failed one, after which the name's next address has its turn."""
    names = Names(two_test=[[PUBLIC, OTHER_PUBLIC]])
    with silent() as port:
        wires = Wires(port.port)
        with fetching("", limits=LIMITS, resolve=names, connect=wires) as fetcher:
            error = abandoned(fetcher, "http://two.test/", lambda _: port.wait_for_knocks(NET_S))

    assert isinstance(error, DeadlineExceeded)
    assert [PUBLIC] == wires.addresses


@BOTH_WAYS
@pytest.mark.parametrize("script", [pytest.param(Mute.stalls, id="stalls"), pytest.param(Mute.drips, id="drips")])
def test_handshake_that_does_not_end(script: Callable[[Mute, Visitor], None], redirected: bool) -> None:
    """A server that accepts, and says nothing or too little for TLS, does not keep it; it is closed."""
    mute = Mute()
    with (
        serve(lambda visitor: script(mute, visitor)) as server,
        led_to(server.url(scheme="https"), redirected=redirected) as url,
        fetching(limits=LIMITS) as fetcher,
    ):
        error = abandoned(fetcher, url, lambda _: mute.heard.wait(NET_S))
        left = mute.left.wait(NET_S)

    assert isinstance(error, DeadlineExceeded)
    assert left


@BOTH_WAYS
def test_lookup_that_does_not_come_back(redirected: bool) -> None:
    """A name whose server is silent does not keep it."""
    asked, gate = threading.Event(), threading.Event()

    def resolve(_host: str, _port: int) -> list[IpAddress]:
        asked.set()
        gate.wait(2 * NET_S)
        return []

    with (
        led_to("http://silent.test/", redirected=redirected) as url,
        fetching(limits=LIMITS, resolve=resolve) as fetcher,
    ):
        try:
            error = abandoned(fetcher, url, lambda watched: asked.wait(NET_S) and watched.is_asked_again())
        finally:
            gate.set()

    assert isinstance(error, DeadlineExceeded)


def test_lookup_keeps_its_place_until_it_comes_back() -> None:
    """It cannot be ended, so there are never more than so many; who waits for its place is let go as well."""
    gate = threading.Event()
    hosts: list[str] = []

    def resolve(host: str, _port: int) -> list[IpAddress]:
        hosts.append(host)
        gate.wait(2 * NET_S)
        return [ip_address(PUBLIC)]

    with serve(says(answer(b"image"))) as server:
        wires = Wires(server.port)
        with fetching("", limits=LIMITS, resolve=resolve, connect=wires, max_lookups=1) as fetcher:
            try:
                errors = [
                    abandoned(fetcher, f"http://{name}.test/", Watched.is_asked_again) for name in ("silent", "behind")
                ]
            finally:
                gate.set()
            body = fetcher.fetch("http://later.test/", deadline=soon())

    assert [DeadlineExceeded] * 2 == [type(error) for error in errors]
    assert ["silent.test", "later.test"] == hosts
    assert b"image" == body


@pytest.mark.parametrize(
    ("scheme", "script"),
    [
        pytest.param("http", Mute.stalls, id="no-answer"),
        pytest.param("https", Mute.stalls_in_body, id="body-stalls-in-tls"),
    ],
)
def test_answer_that_does_not_come(
    scheme: str, script: Callable[[Mute, Visitor], None], certificates: Certificates
) -> None:
    """A server that does not answer, or not to the end, does not keep it; it is closed."""
    mute = Mute()
    tls = certificates.server if scheme == "https" else None
    with (
        serve(lambda visitor: script(mute, visitor), tls=tls) as server,
        fetching(limits=LIMITS, ca_file=certificates.authority_file) as fetcher,
    ):
        error = abandoned(
            fetcher, server.url(scheme=scheme), lambda watched: mute.heard.wait(NET_S) and watched.is_asked_again()
        )
        left = mute.left.wait(NET_S)

    assert isinstance(error, DeadlineExceeded)
    assert left
