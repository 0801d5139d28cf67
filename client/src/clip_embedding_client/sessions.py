"""`requests` sessions that go to the configured address or nowhere, and whose waiting ends.

Proxies and credentials of the environment are not used, cookies are not kept and redirects are not followed.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Say that nothing redirects: else `send` reads the whole body of a redirect before it lets us refuse it."""
        return


def new_session() -> requests.Session:
    """Return a session for one exchange at a time. Its reads need a read timeout, which then bounds all headers."""
    session = _Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _BoundedAdapter(pool_connections=2, pool_maxsize=1)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _BoundedHeaders:
    """A read timeout bounds each single read: headers that drip would take for ever. This bounds all of them."""

    sock: Any
    timeout: Any

    def getresponse(self) -> Any:  # noqa: ANN401
        with watchdog(float(self.timeout), self._cut) as expired:
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


class _BoundedHttp(_BoundedHeaders, HTTPConnection):
    pass


class _BoundedHttps(_BoundedHeaders, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _BoundedHttp


class _HttpsPool(HTTPSConnectionPool):
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
