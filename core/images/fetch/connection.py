"""HTTP/1.1 over connections to checked addresses."""

import ssl
from collections.abc import Sequence
from socket import socket

from core.deadline import Deadline
from core.images.fetch.addresses import IpAddress
from core.images.fetch.allowlist import AllowList
from core.images.fetch.body import Reserve, read_body
from core.images.fetch.budget import time_left_s
from core.images.fetch.failures import not_http
from core.images.fetch.head import Head
from core.images.fetch.policy import refuse_addresses, refuse_port
from core.images.fetch.received import Received
from core.images.fetch.resolver import Lookups
from core.images.fetch.sockets import Connect, TimedSocket, start_tls
from core.images.fetch.urls import Url

# The same few for everyone: nothing of the caller or of this machine goes out.
_REQUEST = (
    "GET {target} HTTP/1.1\r\n"
    "Host: {authority}\r\n"
    "User-Agent: clip-embedding-service\r\n"
    "Accept: */*\r\n"
    "Accept-Encoding: identity\r\n"
    "\r\n"
)

# One URL must not become a connection attempt to each of the thousands of addresses a hostile name may have.
MAX_ADDRESSES_TRIED = 4

# Continue and Early Hints come once or twice; a server that sends nothing else is a `DownloadError`.
MAX_INTERIM_ANSWERS = 8


class CheckedConnection:
    """One socket that was connected to a checked address; never connects by itself.

    `reusable` once an answer was read to its end and nothing came behind it: a rest would be the next answer.
    """

    def __init__(self, url: Url, sock: TimedSocket) -> None:
        self.origin = url.origin
        self.reusable = False
        self._sock = sock
        self._received = Received(sock.receive_into)

    @property
    def heard(self) -> bool:
        """Whether the server sent anything since the last request."""
        return self._received.anything

    def get(self, url: Url, ends: Deadline) -> Head:
        """Send the request and read the head of the answer; closes the connection on failure."""
        self.reusable = False
        self._received.clear()
        self._sock.start_clock(ends)
        try:
            self._sock.send(_REQUEST.format(target=url.target, authority=url.authority).encode("ascii"))
            return self._take_head()
        except BaseException:
            self.close()
            raise

    def read_body(self, head: Head, *, max_bytes: int, reserve: Reserve) -> bytes:
        body = read_body(head, self._received, max_bytes=max_bytes, reserve=reserve)
        self.reusable = head.keep_alive and not self._received
        return body

    def skip_body(self, head: Head) -> None:
        """Read nothing more; the connection is reusable only if all of the body has come already."""
        self.reusable = head.keep_alive and head.length == len(self._received)

    def has_something(self) -> bool:
        """Whether something came unasked: the end of the stream, or bytes that would pass for an answer."""
        return self._sock.has_something()

    def close(self) -> None:
        self._sock.close()

    def _take_head(self) -> Head:
        for _ in range(MAX_INTERIM_ANSWERS + 1):
            head = self._received.take_head()
            if not head.interim:
                return head
        raise not_http()


class Connector:
    """Opens connections: look up once, check every answer, connect to one of those very answers."""

    def __init__(self, allow: AllowList, lookups: Lookups, connect: Connect, tls: ssl.SSLContext) -> None:
        self._allow = allow
        self._lookups = lookups
        self._connect = connect
        self._tls = tls

    def open(self, url: Url, ends: Deadline) -> CheckedConnection:
        """Raises `UrlNotAllowed` and `DownloadError`; and `OSError`, `TimeoutError` among them."""
        sock = self._connect_to_first(self._checked_addresses(url, ends), url.port, ends)
        if url.scheme == "https":
            sock = start_tls(sock, self._tls, url.host, ends)
        return CheckedConnection(url, TimedSocket(sock))

    def _checked_addresses(self, url: Url, ends: Deadline) -> Sequence[IpAddress]:
        refuse_port(url, self._allow)
        literal = url.literal_address
        addresses = [literal] if literal else self._lookups.addresses(url.host, url.port, ends)
        refuse_addresses(url, addresses, self._allow)
        return addresses

    def _connect_to_first(self, addresses: Sequence[IpAddress], port: int, ends: Deadline) -> socket:
        """Try the addresses in order; a silent one gets only its share of the time."""
        tried = addresses[:MAX_ADDRESSES_TRIED]
        failures: list[OSError] = []
        for index, address in enumerate(tried):
            share_s = time_left_s(ends) / (len(tried) - index)
            try:
                return self._connect(address, port, Deadline.after(share_s, ends.cancellation))
            except OSError as error:
                failures.append(error)
        raise failures[-1]
