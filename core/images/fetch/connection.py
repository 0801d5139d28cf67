"""HTTP connections to checked addresses.

http.client, not urllib3, whose pool writes the target with its query into the log (at debug; at warning for
odd headers), rewrites the target's escapes, and changes the shared TLS context on every connection.
"""

import http.client
import ssl
from collections.abc import Sequence

from core.deadline import Deadline
from core.images.fetch.addresses import IpAddress
from core.images.fetch.allowlist import AllowList
from core.images.fetch.policy import refuse_addresses, refuse_port
from core.images.fetch.resolver import Lookups
from core.images.fetch.sockets import Connect, TimedSocket, start_tls, time_left_s
from core.images.fetch.urls import Url

# The same few for everyone: nothing of the caller or of this machine goes out.
REQUEST_HEADERS = {"User-Agent": "clip-embedding-service", "Accept": "*/*", "Accept-Encoding": "identity"}

# One URL must not become a connection attempt to each of the thousands of addresses a hostile name may have.
MAX_ADDRESSES_TRIED = 4


class CheckedConnection(http.client.HTTPConnection):
    """Speaks HTTP over one socket that was connected to a checked address, and never connects by itself."""

    auto_open = 0

    def __init__(self, url: Url, sock: TimedSocket) -> None:
        super().__init__(url.host, url.port)
        self.origin = url.origin
        self.sock: TimedSocket = sock

    def get(self, url: Url, ends: Deadline) -> http.client.HTTPResponse:
        """Send the request and read the head of the answer; closes the connection on failure."""
        try:
            self.sock.start_clock(ends)
            self.putrequest("GET", url.target, skip_host=True, skip_accept_encoding=True)
            self.putheader("Host", url.authority)
            for name, value in REQUEST_HEADERS.items():
                self.putheader(name, value)
            self.endheaders()
            return self.getresponse()
        except BaseException:
            self.close()
            raise


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
        return CheckedConnection(url, sock)

    def _checked_addresses(self, url: Url, ends: Deadline) -> Sequence[IpAddress]:
        refuse_port(url, self._allow)
        literal = url.literal_address
        addresses = [literal] if literal else self._lookups.addresses(url.host, url.port, ends)
        refuse_addresses(url, addresses, self._allow)
        return addresses

    def _connect_to_first(self, addresses: Sequence[IpAddress], port: int, ends: Deadline) -> TimedSocket:
        """Try the addresses in order; a silent one gets only its share of the time."""
        tried = addresses[:MAX_ADDRESSES_TRIED]
        failures: list[OSError] = []
        for index, address in enumerate(tried):
            share_s = time_left_s(ends) / (len(tried) - index)
            try:
                return self._connect(address, port, share_s)
            except OSError as error:
                failures.append(error)
        raise failures[-1]
