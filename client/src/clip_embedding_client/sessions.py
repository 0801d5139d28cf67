"""`requests` sessions that go to the configured address or nowhere, and whose waiting ends.

Proxies and credentials of the environment are not used, cookies are not kept and redirects are not followed.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

# Zero would mean not to wait at all.
_SHORTEST_SEND_S = 0.001


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Say that nothing redirects: else `send` reads the whole body of a redirect before it lets us refuse it."""
        return


def new_session() -> requests.Session:
    """Return a session for one exchange at a time. Its read timeout, which it needs, is of the exchange
    until its headers are there."""
    session = _Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _BoundedAdapter(pool_connections=2, pool_maxsize=1)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Final(HTTPResponse):
    """Of interim answers http.client skips 100 alone. Any other would be taken for the answer, and the one that comes
    after it for that of the next request on this connection.
    """

    def begin(self, **kwargs: Any) -> None:  # noqa: ANN401 - http.client's own
        """Read on to the final head. The time of the exchange bounds how many there are before it."""
        super().begin(**kwargs)
        while self.status < HTTPStatus.OK:
            if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise HTTPException("the connection goes on in a protocol that was not asked for")
            # Or else it has begun already.
            self.headers = None  # type: ignore[assignment]
            super().begin(**kwargs)


class _Bounded:
    """urllib3 bounds sending by the time for connecting, and headers only by each single read: one that drips would
    take for ever. This bounds all of it, until the headers are there, by the time of the exchange."""

    sock: Any
    timeout: Any
    until_s: float
    response_class: Any = _Final

    def send(self, data: Any) -> None:  # noqa: ANN401 - http.client's own signature
        """A body of megabytes may take longer on a slow line than a connection may."""
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        self.sock.settimeout(max(_SHORTEST_SEND_S, self.until_s - time.monotonic()))
        super().send(data)  # type: ignore[misc]

    def getresponse(self) -> Any:  # noqa: ANN401
        left_s = max(0.0, min(float(self.timeout), self.until_s - time.monotonic()))
        with watchdog(left_s, self._cut) as expired:
            try:
                response = super().getresponse()  # type: ignore[misc]
            # HTTPException and ValueError: what is read when the socket is cut in the middle of it.
            except (OSError, ValueError, HTTPException) as error:
                if expired.is_set():
                    raise TimeoutError("the headers did not end in time") from error
                raise
        # Headers that end because the socket was cut look like whole headers.
        if expired.is_set():
            response.close()
            raise TimeoutError("the headers did not end in time")
        return response

    def _cut(self) -> None:
        sock = self.sock
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)


class _BoundedHttp(_Bounded, HTTPConnection):
    pass


class _BoundedHttps(_Bounded, HTTPSConnection):
    pass


class _Pool:
    """Tells a connection until when the exchange lasts: its read timeout, counted from the beginning."""

    def _make_request(self, conn: Any, *args: Any, timeout: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - urllib3's own
        conn.until_s = time.monotonic() + timeout.read_timeout
        return super()._make_request(conn, *args, timeout=timeout, **kwargs)  # type: ignore[misc]


class _HttpPool(_Pool, HTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _BoundedHttp


class _HttpsPool(_Pool, HTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _BoundedHttps


class _BoundedAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - requests' own signature
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


@contextmanager
def watchdog(timeout_s: float, cut: Callable[[], object]) -> Iterator[threading.Event]:
    """Call `cut` from another thread after `timeout_s`, unless the block ends first. The event tells that it did."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        # The connection may have ended by itself in this very moment.
        with suppress(OSError, ValueError, RuntimeError):
            cut()

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
