"""Heads of answers, from bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DownloadError
from core.images.fetch.head import MAX_HEADERS, Head, parse_head


def head(*lines: str, first: str = "HTTP/1.1 200 OK") -> memoryview:
    return memoryview("\r\n".join([first, *lines, "", ""]).encode("latin-1"))


def test_what_is_read() -> None:
    """Names have no case, values no spaces around them, and an empty value hides no field behind it."""
    parsed = parse_head(
        head("X-Empty:", "CONTENT-length:  12 ", "Content-Encoding: br ", "location: /b?c", first="HTTP/1.1 302 Found")
    )

    assert parsed == Head(
        status=302,
        keep_alive=True,
        length=12,
        transfer_encoding=None,
        content_encoding=b"br",
        location=b"/b?c",
    )


@pytest.mark.parametrize(
    ("lines", "first", "kept"),
    [
        pytest.param(["Content-Length: 1"], "HTTP/1.1 200 OK", True, id="length"),
        pytest.param(["Transfer-Encoding: Chunked"], "HTTP/1.1 200 OK", True, id="chunked"),
        pytest.param([], "HTTP/1.1 200 OK", False, id="ends-with-the-connection"),
        pytest.param(["Content-Length: 1"], "HTTP/1.0 200 OK", False, id="http-1.0"),
        pytest.param(
            ["Content-Length: 1", "Connection: a", "connection: b, Close"], "HTTP/1.1 200 OK", False, id="close"
        ),
    ],
)
def test_keep_alive(lines: list[str], first: str, kept: bool) -> None:
    """A connection is kept only under HTTP/1.1, with a body whose end is known, and if the server did not say close."""
    assert kept is parse_head(head(*lines, first=first)).keep_alive


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(head("Content-Length: 5", "Content-Length: 5"), id="two-lengths"),
        pytest.param(head("Content-Length: 5, 5"), id="list-of-lengths"),
        pytest.param(head("Content-Length: +5"), id="signed-length"),
        pytest.param(head("Content-Length: 99999999999999999999"), id="length-overflow"),
        pytest.param(head("Content-Length:"), id="empty-length"),
        pytest.param(head("Content-Length: 5", "Transfer-Encoding: chunked"), id="length-and-chunked"),
        pytest.param(head("Transfer-Encoding: chunked", "Content-Length: 5"), id="chunked-and-length"),
        pytest.param(head("A : b"), id="space-before-colon"),
        pytest.param(head("A: b", " folded"), id="folded"),
        pytest.param(head("A: b\nC: d"), id="bare-lf"),
        pytest.param(head("A: \0"), id="nul"),
        pytest.param(head("no colon"), id="no-colon"),
        pytest.param(head(first="RTSP/1.0 200 OK"), id="rtsp"),
        pytest.param(head(first="HTTP/2.0 200 OK"), id="http-2.0"),
        pytest.param(head(first="HTTP/0.9 200 OK"), id="http-0.9"),
        pytest.param(head(first="HTTP/1.1 99 Low"), id="status"),
        pytest.param(head(first="HTTP/1.1 101 Switching Protocols"), id="switching-protocols"),
        pytest.param(head("Upgrade: x", "Connection: upgrade", first="HTTP/1.1 101 Switching Protocols"), id="upgrade"),
        pytest.param(head("A: b")[:-2], id="cut"),
        pytest.param(memoryview(b"\r\n\r\n"), id="only-the-end"),
    ],
)
def test_what_is_refused(data: memoryview) -> None:
    """A head that two readers could read differently, or that is of another protocol, is refused."""
    with pytest.raises(DownloadError, match="did not answer in HTTP"):
        parse_head(data)


@pytest.mark.parametrize(
    ("count", "refused"), [pytest.param(MAX_HEADERS, False, id="at-the-limit"), pytest.param(101, True, id="over-it")]
)
def test_headers_are_counted(count: int, refused: bool) -> None:
    """As many headers as the limit are read, and no more."""
    try:
        parse_head(head(*["A: b"] * count))
        raised = False
    except DownloadError:
        raised = True

    assert raised is refused


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail + b"\r\n\r\n"))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    """For any bytes, `parse_head` returns a head or raises `DownloadError`; a length is never negative."""
    try:
        parsed = parse_head(memoryview(data))
    except DownloadError:
        return

    assert parsed.length is None or parsed.length >= 0
