"""The head of an answer, from bytes to what a download has to know; no sockets, no policy."""

from collections import defaultdict
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from core.images.fetch.failures import not_http

# llhttp counts none. Images come with ten or twenty; more than this is a `DownloadError`.
MAX_HEADERS = 100

# llhttp takes RTSP/1.0 and HTTP/2.0 for heads as well.
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")


@dataclass(frozen=True, slots=True)
class Head:
    """`length` is the body's, None when chunks or the connection's end mark its end.

    `keep_alive` says that the connection serves another request once the body has been read.
    """

    status: int
    keep_alive: bool
    length: int | None
    transfer_encoding: bytes | None
    content_encoding: bytes | None
    location: bytes | None

    @property
    def chunked(self) -> bool:
        return self.transfer_encoding == b"chunked"

    @property
    def interim(self) -> bool:
        """Whether the answer proper is still to come: 100 Continue, 103 Early Hints."""
        return 100 <= self.status < 200


class _Fields:
    """What the parser calls. Holds no reference to it: a cycle per download would be the collector's work."""

    def __init__(self) -> None:
        self.count = 0
        self.complete = False
        self._values: defaultdict[bytes, list[bytes]] = defaultdict(list)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        self._values[name.lower()].append(value)

    def on_headers_complete(self) -> None:
        self.complete = True

    def get(self, name: bytes) -> bytes | None:
        """The values of this name, joined as RFC 9110, 5.3 allows; None when there is none."""
        values = self._values.get(name)
        return None if values is None else b", ".join(values).strip()


def parse_head(head: memoryview) -> Head:
    """Parse a head up to and with its empty line; raises `DownloadError` for what is not exactly one.

    llhttp refuses what proxies have been tricked with: bare LF, folded lines, spaces before a colon, a second or
    odd Content-Length, a Content-Length beside a Transfer-Encoding.
    """
    version = bytes(head[:8])
    if version not in _VERSIONS:
        raise not_http()
    fields = _Fields()
    parser = HttpResponseParser(fields)
    try:
        parser.feed_data(head)
    except (HttpParserError, HttpParserUpgrade) as error:
        raise not_http() from error
    if not fields.complete or fields.count > MAX_HEADERS:
        raise not_http()
    return _head_of(parser.get_status_code(), version, fields)


def _head_of(status: int, version: bytes, fields: _Fields) -> Head:
    length = fields.get(b"content-length")
    transfer_encoding = fields.get(b"transfer-encoding")
    closes = version == b"HTTP/1.0" or b"close" in (fields.get(b"connection") or b"").lower()
    return Head(
        status=status,
        keep_alive=not closes and (length is not None or transfer_encoding is not None),
        length=None if length is None else int(length),  # digits: llhttp has seen to that
        transfer_encoding=transfer_encoding and transfer_encoding.lower(),
        content_encoding=fields.get(b"content-encoding"),
        location=fields.get(b"location"),
    )
