"""One HTTP exchange with a backend, bounded in time and size; knows nothing of embeddings."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import requests
import urllib3

from worker.clock import Clock
from worker.errors import BackendTimeout, ConnectionFailed, UnreadableResponse
from worker.sessions import new_session, watchdog

# A batch of 16 vectors is 45 KB in base64; RunPod itself stops at 20 MB.
MAX_RESPONSE_BYTES = 32 * 1024 * 1024

_TOO_LONG = "the answer did not end in time"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole response."""

    status: int
    data: bytes
    retry_after_s: float | None

    def json(self) -> Any:  # noqa: ANN401
        """Return the parsed body. Raises `UnreadableResponse`."""
        if not self.data:
            raise UnreadableResponse(f"HTTP {self.status} with an empty body")
        try:
            return json.loads(self.data)
        # RecursionError: a body that is nothing but brackets.
        except (ValueError, RecursionError) as error:
            raise UnreadableResponse(f"HTTP {self.status} with a body that is not JSON") from error

    def json_or_none(self) -> Any:  # noqa: ANN401
        """Return the parsed body, or None if it is not JSON: a proxy's page, an empty body."""
        with suppress(UnreadableResponse):
            return self.json()
        return None


class HttpChannel:
    """Exchanges requests for answers, from any number of threads.

    `requests.Session` does not promise to be thread-safe, so a session is lent to one exchange at a time and kept
    for the next. That also keeps connections alive when the threads themselves come and go.
    """

    def __init__(self, *, connect_timeout_s: float, clock: Clock) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._idle: list[requests.Session] = []
        self._closed = False
        self._lock = threading.Lock()

    def exchange(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """Send and wait for the whole answer, for `timeout_s` in total. Any status is an answer.

        Raises `ConnectionFailed`, `BackendTimeout` or, over the size limit, `UnreadableResponse`.
        """
        until_s = self._clock.monotonic() + timeout_s
        data = None if body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        with self._session() as session:
            response = self._open(session, requests.Request(method, url, data=data, headers=sent), timeout_s)
            with response:
                content = self._read(response, until_s)
        return HttpAnswer(response.status_code, content, _retry_after_s(response.headers))

    def close(self) -> None:
        """Close what is idle now and what is in use as soon as it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        with self._lock:
            session = self._idle.pop() if self._idle else None
        session = session or new_session()
        try:
            yield session
        finally:
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(session)
            if not keep:
                session.close()

    def _open(self, session: requests.Session, request: requests.Request, timeout_s: float) -> requests.Response:
        timeouts_s = (min(self._connect_timeout_s, timeout_s), timeout_s)
        prepared = session.prepare_request(request)
        try:
            return session.send(prepared, stream=True, allow_redirects=False, timeout=timeouts_s)
        except requests.Timeout as error:
            raise BackendTimeout(_said(error, timeout_s)) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise ConnectionFailed(_cause(error)) from error

    def _read(self, response: requests.Response, until_s: float) -> bytes:
        left_s = max(0.0, until_s - self._clock.monotonic())
        with watchdog(left_s, response.raw.shutdown) as expired:
            try:
                data: bytes = response.raw.read(MAX_RESPONSE_BYTES + 1, decode_content=True)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise BackendTimeout(_TOO_LONG) from error
            # OSError and ValueError: what a TLS socket may say when it is cut in the middle of a read.
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                if expired.is_set():
                    raise BackendTimeout(_TOO_LONG) from error
                raise ConnectionFailed("the connection broke in the middle of the answer") from error
        # A body that ends because the socket was cut can look whole.
        if expired.is_set():
            raise BackendTimeout(_TOO_LONG)
        if len(data) > MAX_RESPONSE_BYTES:
            raise UnreadableResponse(f"the answer is larger than {MAX_RESPONSE_BYTES:,} bytes")
        return data


def _said(error: requests.Timeout, timeout_s: float) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    return f"no answer within {timeout_s:.1f} s"


def _cause(error: Exception) -> str:
    """Say what broke in words of ours: the library's own hold the URL."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, requests.exceptions.SSLError):
        return "TLS failed"
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return "the host's name cannot be resolved"
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return "nothing takes connections there"
    return "the connection broke before an answer came"


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, which is what the service and RunPod send. The form with a date counts as absent."""
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else None
