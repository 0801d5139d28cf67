"""One deadline bounds a whole download, whatever its server does.

The servers here go on for JOIN_TIMEOUT_S, so a download that is not cut ends far too late.
"""

import socket
import threading
import time
from ipaddress import ip_address

import pytest

from core.deadline import Deadline
from core.errors import DeadlineExceeded, DownloadTimeout, ServiceError
from core.images.fetch.addresses import IpAddress
from core.images.fetch.fetcher import FetchLimits
from tests.core.images.fetch.fakes import Names, Wires, fetching, soon
from tests.core.images.fetch.servers import Script, SilentPort, Visitor, answer, redirect, says, serve, silent

SHORT = FetchLimits(max_bytes=1_000_000, timeout_s=0.3)
HANG_S = 5  # far beyond the limit, far below what the servers go on for


def stalls(visitor: Visitor) -> None:
    visitor.stall()


def drips_headers(visitor: Visitor) -> None:
    visitor.request()
    visitor.send(b"HTTP/1.1 200 OK\r\n")
    visitor.drip(b"X-Drip: a\r\n", pause_s=0.02)


def drips_status_line(visitor: Visitor) -> None:
    visitor.request()
    visitor.drip(b"HTTP/1.1 200 " + b"a" * 10_000, pause_s=0.02)


def continues_for_ever(visitor: Visitor) -> None:
    visitor.request()
    visitor.drip(b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.01)


def drips_body(visitor: Visitor) -> None:
    visitor.request()
    visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    visitor.drip(b"a", pause_s=0.02)


def drips_chunks(visitor: Visitor) -> None:
    visitor.request()
    visitor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    visitor.drip(b"1\r\na\r\n", pause_s=0.02)


def drips_trailers(visitor: Visitor) -> None:
    visitor.request()
    visitor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
    visitor.drip(b"X-Drip: a\r\n", pause_s=0.02)


def stalls_in_body(visitor: Visitor) -> None:
    visitor.request()
    visitor.send(answer(b"a" * 1000)[:500])
    visitor.stall()


def redirects_slowly(visitor: Visitor) -> None:
    visitor.request()
    if not visitor.stopping.wait(0.2):
        visitor.send(redirect("/again"))


def elapsed_and_error(url: str, *, limits: FetchLimits, deadline: Deadline) -> tuple[float, ServiceError]:
    with fetching(limits=limits) as fetcher:
        started_s = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            fetcher.fetch(url, deadline=deadline)
        return time.monotonic() - started_s, caught.value


def test_slow_answer_is_waited_for() -> None:
    """A server that is silent for longer than one look at the deadline, but not beyond it, is heard."""

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.stopping.wait(1.3)
        visitor.send(answer(b"image"))

    with serve(script) as server, fetching() as fetcher:
        body = fetcher.fetch(server.url(), deadline=soon())

    assert body == b"image"


def test_slow_lookup_is_waited_for() -> None:
    """The same of a name."""

    def resolve(host: str, port: int) -> list[IpAddress]:
        time.sleep(1.3)
        return names(host, port)

    names = Names(slow_test=[["93.184.216.34"]])
    with (
        serve(says(answer(b"image"))) as server,
        fetching("", resolve=resolve, connect=Wires(server.port)) as fetcher,
    ):
        body = fetcher.fetch("http://slow.test/", deadline=soon())

    assert body == b"image"


def test_slow_connection_is_waited_for() -> None:
    """The same of a host that answers the third knock, which is the kernel's after three seconds."""

    def answer_late(port: SilentPort) -> None:
        port.wait_for_knocks(HANG_S)
        time.sleep(1.3)
        port.listener.accept()[0].close()
        sock, _ = port.listener.accept()
        with sock:
            says(answer(b"image"))(Visitor(sock, 2, threading.Event()))

    with silent() as port, fetching() as fetcher:
        answering = threading.Thread(target=answer_late, args=(port,))
        answering.start()
        body = fetcher.fetch(port.url(), deadline=soon())
        answering.join()

    assert body == b"image"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(stalls, id="no-answer"),
        pytest.param(drips_status_line, id="status-line-drips"),
        pytest.param(drips_headers, id="headers-drip"),
        pytest.param(continues_for_ever, id="continue-for-ever"),
        pytest.param(drips_body, id="body-drips"),
        pytest.param(drips_chunks, id="chunks-drip"),
        pytest.param(drips_trailers, id="trailers-drip"),
        pytest.param(stalls_in_body, id="body-stalls"),
        pytest.param(redirects_slowly, id="slow-redirects"),
    ],
)
def test_slow_servers(script: Script) -> None:
    """No server, however it drips, holds a download beyond its limit."""
    with serve(script) as server:
        elapsed_s, error = elapsed_and_error(server.url(), limits=SHORT, deadline=soon())

    assert isinstance(error, DownloadTimeout)
    assert elapsed_s < HANG_S


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(stalls, id="handshake-stalls"),
        pytest.param(lambda visitor: visitor.drip(b"\x16\x03\x03\x40\x00" + bytes(9000)), id="handshake-drips"),
    ],
)
def test_slow_handshake(script: Script) -> None:
    """A TLS handshake counts into the same limit."""
    with serve(script) as server:
        elapsed_s, error = elapsed_and_error(server.url(scheme="https"), limits=SHORT, deadline=soon())

    assert isinstance(error, DownloadTimeout)
    assert elapsed_s < HANG_S


@pytest.mark.parametrize(
    ("own_s", "request_s", "expected"),
    [
        pytest.param(0.2, 20, DownloadTimeout, id="own-limit-first"),
        pytest.param(20, 0.2, DeadlineExceeded, id="request-first"),
        pytest.param(20, -1, DeadlineExceeded, id="request-already-over"),
    ],
)
def test_which_limit_ran_out(own_s: float, request_s: float, expected: type[ServiceError]) -> None:
    """The error says whether the download's own limit or the request's deadline came first."""
    limits = FetchLimits(max_bytes=1000, timeout_s=own_s)
    with serve(stalls) as server:
        _, error = elapsed_and_error(server.url(), limits=limits, deadline=Deadline.after(request_s))

    assert type(error) is expected


def test_slow_connect() -> None:
    """A host that does not answer the connection counts into the same limit."""
    with silent() as port:
        elapsed_s, error = elapsed_and_error(port.url(), limits=SHORT, deadline=soon())

    assert isinstance(error, DownloadTimeout)
    assert elapsed_s < HANG_S


def test_silent_address_leaves_time_for_the_next() -> None:
    """The first address gets only its share of the time, so that the second can still answer."""
    shares_s = []

    def connect(address: IpAddress, port: int, ends: Deadline) -> socket.socket:
        shares_s.append(ends.remaining_s())
        if len(shares_s) == 1:
            raise TimeoutError
        return wires(address, port, ends)

    names = Names(two_test=[["93.184.216.34", "93.184.216.35"]])
    with serve(says(answer(b"image"))) as server:
        wires = Wires(server.port)
        with fetching("", resolve=names, connect=connect) as fetcher:
            body = fetcher.fetch("http://two.test/", deadline=soon())

    assert body == b"image"
    assert shares_s[0] <= 5


def test_hung_lookups_hold_neither_caller_nor_others_for_ever() -> None:
    """Names that never resolve end at the limit, also for the caller who finds all lookups taken."""
    release = threading.Event()
    running = []

    def resolve(host: str, port: int) -> list[IpAddress]:
        running.append(host)
        release.wait(20)
        return [ip_address("93.184.216.34")]

    errors = []
    try:
        with fetching("", limits=SHORT, resolve=resolve, max_lookups=2) as fetcher:
            for number in range(4):
                with pytest.raises(DownloadTimeout) as caught:
                    fetcher.fetch(f"http://n{number}.test/", deadline=soon())
                errors.append(caught.value)
    finally:
        release.set()

    assert running == ["n0.test", "n1.test"]
    assert all(error.retryable for error in errors)


def test_lookups_recover() -> None:
    """A lookup that returns late gives its place back."""
    release = threading.Event()

    def resolve(host: str, port: int) -> list[IpAddress]:
        if host == "slow.test":
            release.wait(20)
        return [ip_address("93.184.216.34")]

    with serve(says(answer(b"image"))) as server:
        wires = Wires(server.port)
        with fetching("", resolve=resolve, connect=wires, max_lookups=1) as fetcher:
            with pytest.raises(DeadlineExceeded):
                fetcher.fetch("http://slow.test/", deadline=Deadline.after(0.1))
            release.set()
            body = fetcher.fetch("http://fast.test/", deadline=soon())

    assert body == b"image"
