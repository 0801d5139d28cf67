"""Downloads from real servers: bodies, statuses, redirects, limits, connection reuse."""

import logging
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.deadline import Deadline
from core.errors import DownloadError, ImageTooLarge, Overloaded, ServiceError, UrlNotAllowed
from core.images.fetch.addresses import IpAddress
from core.images.fetch.fetcher import Fetcher, FetchLimits
from core.images.fetch.urls import parse_url
from tests.core.images.fetch.fakes import PUBLIC, fetching, no_wires, soon
from tests.core.images.fetch.servers import JOIN_TIMEOUT_S, Visitor, answer, redirect, says, serve, serve_paths
from tests.logs import other_threads

IMAGE = bytes(range(256)) * 40
SMALL = FetchLimits(max_bytes=1000, timeout_s=10)


def chunked(*chunks: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b"")
    )


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(answer(IMAGE), id="content-length"),
        pytest.param(chunked(IMAGE[:1000], IMAGE[1000:]), id="chunked"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + IMAGE, id="until-close"),
        pytest.param(answer(IMAGE, headers=["Content-Encoding: Identity"]), id="identity"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(IMAGE), id="continue-first"),
    ],
)
def test_body(response: bytes) -> None:
    """The whole body is returned, however its end is marked."""
    with serve(says(response)) as server, fetching() as fetcher:
        body = fetcher.fetch(server.url(), deadline=soon())

    assert body == IMAGE


def test_request_says_nothing_of_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request has a fixed head: no cookies, no credentials, and no proxy is asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    with serve_paths({"/a.png?b=%2f": answer(IMAGE)}) as server, fetching() as fetcher:
        fetcher.fetch(server.url("/a.png?b=%2f#c"), deadline=soon())

    assert server.requests[0].decode().split("\r\n") == [
        "GET /a.png?b=%2f HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "User-Agent: clip-embedding-service",
        "Accept: */*",
        "Accept-Encoding: identity",
        "",
        "",
    ]


PRESIGNED = (
    "/bucket/2026%2F01/a+b%20c%2B/%E2%9C%93~(1)'!*,;=:@&$.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAEXAMPLE%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20260101T000000Z"
    "&X-Amz-Expires=900&X-Amz-Security-Token=IQoJb3//+aB%2F%2b==&X-Amz-SignedHeaders=host&x-id=GetObject&empty="
    "&response-content-disposition=attachment%3B%20filename%3D%22a%2Bb.jpg%22&q=a+b/../c\\d|{e}&X-Amz-Signature=0a~._-"
)


def test_presigned_url_is_sent_as_it_was_signed() -> None:
    """Not one byte of an encoded path and query changes on the way to the server."""
    with serve_paths({PRESIGNED: answer(IMAGE)}) as server, fetching() as fetcher:
        fetcher.fetch(server.url(PRESIGNED), deadline=soon())

    assert server.requests[0].startswith(f"GET {PRESIGNED} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("location", "path"),
    [
        pytest.param(b"/a b.png", "/a%20b.png", id="space"),
        pytest.param("/é.png".encode(), "/%C3%A9.png", id="utf-8"),
        pytest.param("/é.png".encode("latin-1"), "/%E9.png", id="latin-1"),
        pytest.param(b"/a\tb.png", "/ab.png", id="tab"),
        pytest.param(b"/a%2Fb+c?d=%20#e", "/a%2Fb+c?d=%20", id="escapes"),
    ],
)
def test_redirect_leads_where_browsers_go(location: bytes, path: str) -> None:
    """A Location with raw spaces and raw bytes of any encoding is followed to the resource that its server means."""
    moved = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    with serve_paths({"/": moved, path: answer(IMAGE)}) as server, fetching() as fetcher:
        body = fetcher.fetch(server.url("/"), deadline=soon())

    assert body == IMAGE


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        pytest.param("204 No Content", False, id="204"),
        pytest.param("206 Partial Content", False, id="206"),
        pytest.param("304 Not Modified", False, id="304"),
        pytest.param("404 Not Found", False, id="404"),
        pytest.param("408 Request Timeout", True, id="408"),
        pytest.param("429 Too Many Requests", True, id="429"),
        pytest.param("500 Oops", True, id="500"),
        pytest.param("503 Busy", True, id="503"),
    ],
)
def test_status(status: str, retryable: bool) -> None:
    """Everything but 200 is an error that names the number and says whether to try again."""
    with (
        serve(says(answer(b"secret", status=status))) as server,
        fetching() as fetcher,
        pytest.raises(DownloadError) as caught,
    ):
        fetcher.fetch(server.url(), deadline=soon())

    assert (caught.value.message, caught.value.retryable) == (
        f"the image's server answered {status[:3]}",
        retryable,
    )


@pytest.mark.parametrize(
    ("response", "retryable"),
    [
        pytest.param(b"", True, id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", True, id="shorter-than-it-said"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", True, id="chunk-cut"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", False, id="chunk-size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", False, id="transfer-encoding"),
        pytest.param(answer(b"abc", headers=["Content-Encoding: gzip"]), False, id="gzip"),
        pytest.param(answer(b"abc", headers=["Content-Encoding: br"]), False, id="brotli"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", False, id="another-protocol"),
        pytest.param(b"<html>", False, id="no-status-line"),
        pytest.param(b"HTTP/1.1 999999 OK\r\n\r\n", False, id="status-number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, False, id="header-too-long"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", False, id="too-many-headers"),
        pytest.param(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", False, id="redirect-to-nowhere"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", True, id="head-cut"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 20, False, id="continue-without-end"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\nabc", False, id="switching-protocols"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", False, id="gzip-chunked"),
    ],
)
def test_bad_answers(response: bytes, retryable: bool) -> None:
    """A broken answer is a DownloadError whose message holds nothing of what was answered."""
    with (
        serve(says(response)) as server,
        fetching() as fetcher,
        pytest.raises(DownloadError, match=r"^the (connection to the )?image's server") as caught,
    ):
        fetcher.fetch(server.url(), deadline=soon())

    assert caught.value.retryable is retryable


@pytest.mark.parametrize(
    "after", [pytest.param(b"", id="before-the-head"), pytest.param(answer(IMAGE)[:100], id="mid-body")]
)
def test_reset(after: bytes) -> None:
    """A connection that the server resets can be tried again later."""

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.send(after)
        visitor.reset()

    with serve(script) as server, fetching() as fetcher, pytest.raises(DownloadError) as caught:
        fetcher.fetch(server.url(), deadline=soon())

    assert caught.value.retryable


def test_connection_refused() -> None:
    """A port where nobody listens can be tried again later; the message names no address."""
    with serve(says(b"")) as server:
        url = server.url()
    with fetching() as fetcher, pytest.raises(DownloadError) as caught:
        fetcher.fetch(url, deadline=soon())

    assert (caught.value.message, caught.value.retryable) == (
        "the connection to the image's server failed",
        True,
    )


def test_largest_body() -> None:
    """A body of exactly the limit is accepted."""
    with serve(says(answer(b"a" * 1000))) as server, fetching(limits=SMALL) as fetcher:
        body = fetcher.fetch(server.url(), deadline=soon())

    assert len(body) == 1000


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(answer(b"a" * 1001), id="one-byte-more"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", id="only-promised"),
        pytest.param(chunked(b"a" * 600, b"b" * 600), id="chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1001, id="until-close"),
    ],
)
def test_too_large(response: bytes) -> None:
    """A body over the limit is refused, whatever its head said."""
    with (
        serve(says(response)) as server,
        fetching(limits=SMALL) as fetcher,
        pytest.raises(ImageTooLarge, match="1000 bytes"),
    ):
        fetcher.fetch(server.url(), deadline=soon())


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(answer(b"a" * 900), id="length known"),
        pytest.param(chunked(b"a" * 500, b"b" * 400), id="length not known"),
    ],
)
def test_bytes_are_reserved_before_they_are_kept(response: bytes) -> None:
    """Whoever counts the memory of all downloads is asked first, and its refusal ends the download."""
    reserved: list[int] = []

    def refuse(_count: int) -> None:
        raise Overloaded

    with serve(says(response)) as server, fetching(limits=SMALL) as fetcher:
        fetcher.fetch(server.url(), deadline=soon(), reserve=reserved.append)
        with pytest.raises(Overloaded):
            fetcher.fetch(server.url(), deadline=soon(), reserve=refuse)

    assert 900 == sum(reserved)


def test_chunks_without_end_are_not_kept() -> None:
    """A body in chunks is counted while it comes: one that never ends is refused at the limit."""

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not visitor.stopping.is_set():
            visitor.send(b"10000\r\n" + b"a" * 65536 + b"\r\n")

    with serve(script) as server, fetching(limits=SMALL) as fetcher, pytest.raises(ImageTooLarge):
        fetcher.fetch(server.url(), deadline=soon())


@pytest.mark.parametrize("status", [pytest.param(status, id=str(status)) for status in (301, 302, 303, 307, 308)])
def test_redirects_are_followed(status: int) -> None:
    """Each kind of redirect is followed, relative or absolute."""
    paths = {
        "/dir/a": answer(status=f"{status} Moved", headers=["Location: b"]),
        "/dir/b": redirect("/c"),
        "/c": answer(IMAGE),
    }
    with serve_paths(paths) as server, fetching() as fetcher:
        body = fetcher.fetch(server.url("/dir/a"), deadline=soon())

    assert body == IMAGE


@pytest.mark.parametrize(
    ("allowed", "refused"), [pytest.param(3, False, id="at-the-limit"), pytest.param(2, True, id="over-it")]
)
def test_redirects_are_counted(allowed: int, refused: bool) -> None:
    """As many redirects are followed as the limit says, and no more."""
    paths = {"/0": redirect("/1"), "/1": redirect("/2"), "/2": redirect("/3"), "/3": answer(IMAGE)}
    limits = FetchLimits(max_bytes=100_000, timeout_s=10, max_redirects=allowed)
    with serve_paths(paths) as server, fetching(limits=limits) as fetcher:
        try:
            fetcher.fetch(server.url("/0"), deadline=soon())
            message = ""
        except DownloadError as error:
            message = error.message

    assert message == ("the image's server redirected more than 2 times" if refused else "")


def test_body_of_a_redirect_is_not_read() -> None:
    """A redirect that goes on for ever costs nothing."""

    def script(visitor: Visitor) -> None:
        if b"GET /b" in visitor.request():
            visitor.send(answer(IMAGE))
            return
        visitor.send(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 999999999\r\n\r\n")
        while not visitor.stopping.is_set():
            visitor.send(b"a" * 65536)

    with serve(script) as server, fetching() as fetcher:
        body = fetcher.fetch(server.url("/a"), deadline=soon())

    assert body == IMAGE


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("http://169.254.169.254/latest/meta-data/", id="metadata"),
        pytest.param("http://127.0.0.2/", id="loopback"),
        pytest.param("//[::1]/", id="scheme-relative-loopback"),
        pytest.param("http://127.0.0.1:22/", id="port-not-listed"),
        pytest.param("http://user:pass@127.0.0.1/", id="credentials"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("http://127.1/", id="short-v4"),
    ],
)
def test_every_hop_is_checked(location: str) -> None:
    """A redirect leads nowhere that the first URL could not have named."""
    with serve(says(redirect(location))) as server:
        allow = f"127.0.0.1:{server.port}"
        with fetching(allow) as fetcher, pytest.raises(UrlNotAllowed):
            fetcher.fetch(server.url(), deadline=soon())


def test_connections_are_reused() -> None:
    """Images fetched one after another from one server share one connection."""
    paths = {
        "/a": answer(IMAGE),
        "/b": chunked(IMAGE),
        "/c": redirect("/a"),
        "/d": answer(b""),
        "/e": redirect("/a", body=b"moved"),
    }
    with serve_paths(paths) as server, fetching() as fetcher:
        for path in [*paths, *paths]:
            fetcher.fetch(server.url(path), deadline=soon())

    assert (server.connections, len(server.requests)) == (1, 14)


def test_unread_answers_are_not_reused() -> None:
    """A connection whose answer was not read to its end serves no other image."""
    paths = {"/big": answer(b"b" * 5000), "/small": answer(b"small")}
    with serve_paths(paths) as server, fetching(limits=SMALL) as fetcher:
        with pytest.raises(ImageTooLarge):
            fetcher.fetch(server.url("/big"), deadline=soon())
        body = fetcher.fetch(server.url("/small"), deadline=soon())

    assert (body, server.connections) == (b"small", 2)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(answer(IMAGE) + b"x", id="length-and-a-byte"),
        pytest.param(answer(IMAGE) + b"\r\n", id="length-and-a-line"),
        pytest.param(answer(b"") + answer(b"smuggled"), id="empty-and-an-answer"),
        pytest.param(chunked(IMAGE) + b"\r\n", id="chunks-and-a-line"),
        pytest.param(chunked(IMAGE) + answer(b"smuggled"), id="chunks-and-an-answer"),
        pytest.param(redirect("/image") + answer(b"smuggled"), id="redirect-and-an-answer"),
        pytest.param(answer(IMAGE, headers=["Connection: x, Close"]), id="connection-close"),
        pytest.param(answer(IMAGE).replace(b"HTTP/1.1", b"HTTP/1.0"), id="http-1.0"),
    ],
)
def test_connections_that_are_not_kept(first: bytes) -> None:
    """Where more came than one answer, or the server said so, the next image gets a connection of its own."""
    with serve_paths({"/first": first, "/image": answer(b"image")}) as server, fetching() as fetcher:
        fetcher.fetch(server.url("/first"), deadline=soon())
        body = fetcher.fetch(server.url("/image"), deadline=soon())

    assert body == b"image"
    assert server.connections >= 2


def test_connection_closed_while_idle() -> None:
    """A kept connection that the server has closed is replaced without an error."""
    with serve_paths({"/a": answer(IMAGE)}, requests_per_connection=1) as server, fetching() as fetcher:
        bodies = [fetcher.fetch(server.url("/a"), deadline=soon()) for _ in range(3)]

    assert (bodies, server.connections) == ([IMAGE] * 3, 3)


def test_connection_closed_on_the_second_request() -> None:
    """A kept connection that closes when it is used again, without an answer, is replaced once."""

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.send(answer(IMAGE))
        visitor.request()

    with serve(script) as server, fetching() as fetcher:
        bodies = [fetcher.fetch(server.url(), deadline=soon()) for _ in range(2)]

    assert (bodies, server.connections) == ([IMAGE] * 2, 2)


def test_answer_that_breaks_off_is_not_asked_for_again() -> None:
    """A kept connection that breaks within its answer is an error: the server has seen the request."""

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.send(answer(IMAGE))
        visitor.request()
        visitor.send(b"HTTP/1.1 200")
        visitor.reset()

    with serve(script) as server, fetching() as fetcher:
        fetcher.fetch(server.url(), deadline=soon())
        with pytest.raises(DownloadError):
            fetcher.fetch(server.url(), deadline=soon())

    assert server.connections == 1


def test_unasked_bytes_are_no_answer() -> None:
    """What a server sends on an idle connection does not pass for the answer to the next request."""
    idle, sent = threading.Event(), threading.Event()

    def script(visitor: Visitor) -> None:
        visitor.request()
        visitor.send(answer(b"image %d" % visitor.number))
        idle.wait(JOIN_TIMEOUT_S)
        visitor.send(answer(b"unasked"))
        sent.set()
        visitor.request()

    with serve(script) as server, fetching() as fetcher:
        first = fetcher.fetch(server.url(), deadline=soon())
        idle.set()
        sent.wait(JOIN_TIMEOUT_S)
        second = fetcher.fetch(server.url(), deadline=soon())

    assert (first, second) == (b"image 1", b"image 2")


def test_many_threads() -> None:
    """A hundred threads get each its own image, over no more kept connections than the limit."""
    paths = {f"/{number}": answer(b"%d" % number * 1000) for number in range(100)}
    with serve_paths(paths) as server, fetching() as fetcher, ThreadPoolExecutor(100) as pool:
        urls = [server.url(path) for path in paths]
        bodies = list(pool.map(lambda url: fetcher.fetch(url, deadline=soon()), urls))

    assert bodies == [b"%d" % number * 1000 for number in range(100)]


@pytest.mark.parametrize("headers", [pytest.param([], id="right"), pytest.param(["not a header"], id="odd-header")])
def test_nothing_is_logged(caplog: pytest.LogCaptureFixture, headers: list[str]) -> None:
    """No URL reaches a log, even at debug level and with headers that a library would complain about."""
    others = other_threads()
    caplog.set_level(logging.DEBUG)
    with serve(says(answer(IMAGE, headers=headers))) as server, fetching() as fetcher, suppress(DownloadError):
        fetcher.fetch(server.url("/a.png?token=hunter2"), deadline=soon())

    assert [one for one in caplog.records if one.thread not in others and one.name != "asyncio"] == []


def test_fetch_after_close_keeps_nothing() -> None:
    """A download that ends after `close` leaves no connection open."""
    with serve_paths({"/a": answer(IMAGE)}) as server, fetching() as fetcher:
        fetcher.close()
        for _ in range(2):
            fetcher.fetch(server.url("/a"), deadline=soon())

    assert server.connections == 2


@pytest.fixture(scope="module")
def nowhere() -> Iterator[Fetcher]:
    """One for all examples: making a fetcher reads the system's certificate authorities."""
    with fetching("", connect=no_wires) as fetcher:
        yield fetcher


@given(url=st.text(st.characters(), max_size=40) | st.text("htp:/@[]1.?#\\ \ud800", max_size=30))
def test_any_text_raises_only_our_errors(nowhere: Fetcher, url: str) -> None:
    """For any text, `fetch` raises an error of ours; an expired deadline keeps it from the network."""
    with pytest.raises(ServiceError):
        nowhere.fetch(url, deadline=Deadline(0.0))


# A request of ours and nothing more: no second header, no second request.
REQUEST = re.compile(
    rb"GET (?P<target>/[!-~]*) HTTP/1\.1\r\nHost: (?P<authority>[a-z0-9._-]+|\[[0-9a-f:]+\])\r\n"
    rb"User-Agent: clip-embedding-service\r\nAccept: \*/\*\r\nAccept-Encoding: identity\r\n\r\n"
)
AUTHORITIES = st.sampled_from(["example.com", "93.184.216.34", "[2606:4700::1111]", "b\u00fccher.test", "i\u2764.test"])
ANY_PART = st.text(st.characters(), max_size=20) | st.text("/\\?#@:%. \t\r\nHost\x00\x85\u2028\u00e9", max_size=20)
ENDS_OF_HOSTS = st.builds("{}{}".format, st.sampled_from(["/", "?", "\\", ":80/", ":/#"]), ANY_PART)


class Recorder:
    """Answers every connection by itself; remembers which names were looked up, what was connected to and sent."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.names: list[str] = []
        self.addresses: list[IpAddress] = []
        self.servers: list[socket.socket] = []

    def resolve(self, host: str, _port: int) -> list[IpAddress]:
        self.names.append(host)
        return [ip_address(PUBLIC)]

    def connect(self, address: IpAddress, _port: int, _ends: Deadline) -> socket.socket:
        ours, server = socket.socketpair()
        self.addresses.append(address)
        self.servers.append(server)
        server.sendall(b"HTTP/1.0 200 OK\r\n\r\nimage")
        server.shutdown(socket.SHUT_WR)
        return ours

    def sent(self) -> bytes:
        """What came over the one connection until it was closed."""
        [server] = self.servers
        with server:
            return b"".join(iter(lambda: server.recv(65536), b""))


@pytest.fixture(scope="module")
def recorded() -> Iterator[tuple[Fetcher, Recorder]]:
    """One for all examples, as `nowhere`."""
    recorder = Recorder()
    with fetching("", resolve=recorder.resolve, connect=recorder.connect) as fetcher:
        yield fetcher, recorder


@given(authority=AUTHORITIES, before=st.just("") | ANY_PART, behind=ENDS_OF_HOSTS | ANY_PART)
def test_any_text_is_refused_or_one_clean_request(
    recorded: tuple[Fetcher, Recorder], authority: str, before: str, behind: str
) -> None:
    """For any text: refused before anything else happens, or one request of visible ASCII to the host that was read."""
    fetcher, recorder = recorded
    recorder.clear()
    text = f"http://{before}{authority}{behind}"
    try:
        fetcher.fetch(text, deadline=soon())
    except UrlNotAllowed:
        assert recorder.addresses == []
        return
    request = REQUEST.fullmatch(recorder.sent())
    url = parse_url(text)
    named, address = ([], url.literal_address) if url.literal_address else ([url.host], ip_address(PUBLIC))

    assert request is not None
    assert (request["authority"].decode(), request["target"].decode()) == (url.authority, url.target)
    assert (recorder.names, recorder.addresses) == (named, [address])


@pytest.mark.parametrize(
    ("max_bytes", "timeout_s", "max_redirects"),
    [
        pytest.param(0, 1.0, 0, id="bytes"),
        pytest.param(1, 0.0, 0, id="timeout"),
        pytest.param(1, 1.0, -1, id="redirects"),
    ],
)
def test_limits_are_checked(max_bytes: int, timeout_s: float, max_redirects: int) -> None:
    """Limits that could never be met are refused when they are made."""
    with pytest.raises(ValueError, match="limits must be positive"):
        FetchLimits(max_bytes, timeout_s, max_redirects)
