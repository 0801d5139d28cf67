"""The driver with threads: does a flow's effects in the thread that runs it, over `requests`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import GEN_CLOSED, getgeneratorstate

import requests
import urllib3

from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import (
    MAX_RESPONSE_BYTES,
    Effect,
    Exchange,
    Flow,
    HttpAnswer,
    Pause,
    Result,
    is_encoded,
)
from clip_embedding_client.errors import BackendTimeout, ClientClosed, ConnectionFailed, UnreadableResponse
from clip_embedding_client.sessions import new_session, watchdog

# As many as the asynchronous client keeps: those of a burst would stay open for good.
_MOST_IDLE = 64
_TOO_LONG = "the answer did not end in time"


class _Left(BaseException):
    """Nobody waits for the result: as a cancellation is to a task."""


class ThreadDriver:
    """Runs any number of flows, each in its caller's thread."""

    def __init__(self, *, connect_timeout_s: float, clock: Clock) -> None:
        self._channel = HttpChannel(connect_timeout_s=connect_timeout_s, clock=clock)
        self._clock = clock

    def run(self, flow: Flow[Result], left: threading.Event | None = None) -> Result:
        """Return the flow's result. Raises what it raises.

        `left` is set when nobody waits for it any more. It then ends in a pause, or before whatever it asks for next,
        and not in the middle of an exchange, whose answer may name a job that is to be cancelled. Raises `ClientClosed`
        after `close`, also when that comes between two exchanges.
        """
        if self._channel.closed:
            raise ClientClosed
        result: object = None
        error: BaseException | None = None
        while True:
            try:
                effect = flow.send(result) if error is None else flow.throw(error)
                result, error = self._done(effect, left)
            except StopIteration as done:
                value: Result = done.value
                return value
            except BaseException as interruption:
                if getgeneratorstate(flow) == GEN_CLOSED:
                    raise
                # Ctrl-C between two effects: it has not ended, and may have something to undo.
                result, error = None, interruption
            if isinstance(error, _Left):
                # Once: what it undoes takes its time.
                left = None

    def close(self) -> None:
        """Close connections: what is idle now, and what is in use as soon as it comes back."""
        self._channel.close()

    def _done(self, effect: Effect, left: threading.Event | None) -> tuple[object, BaseException | None]:
        """What came of it, or what was raised; also Ctrl-C: the flow may have something to undo, a job to cancel."""
        try:
            return self._perform(effect, left), None
        except BaseException as error:
            return None, error

    def _perform(self, effect: Effect, left: threading.Event | None) -> object:
        _raise_if_set(left)
        if isinstance(effect, Exchange):
            # Closed in the middle of a call: to be sent again would not help.
            if self._channel.closed and not effect.undoes:
                raise ClientClosed
            return self._channel.exchange(effect)
        if isinstance(effect, Pause):
            self._clock.sleep(effect.seconds, left)
            _raise_if_set(left)
            return None
        try:
            return effect.call()
        except BaseException:
            effect.abandon()
            raise


class _Idle:
    """The sessions that wait for an exchange, of one process: over one that two use, each may read the other's answer.
    Nor is the lock another process's: whoever holds it there never lets it go here.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.sessions: list[requests.Session] = []
        self.lock = threading.Lock()


class HttpChannel:
    """Exchanges requests for answers, bounded in time and size, from any number of threads.

    `requests.Session` does not promise to be thread-safe, so a session is lent to one exchange at a time and kept
    for the next. That also keeps connections alive when the threads themselves come and go.
    """

    def __init__(self, *, connect_timeout_s: float, clock: Clock) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._idle = _Idle()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def exchange(self, exchange: Exchange) -> HttpAnswer:
        """Do it; see `Exchange` for what it raises."""
        until_s = self._clock.monotonic() + exchange.timeout_s
        request = requests.Request(exchange.method, exchange.url, data=exchange.data(), headers=exchange.all_headers())
        with self._session() as session:
            response = self._open(session, request, exchange.timeout_s)
            with response:
                content = None if is_encoded(response.headers) else self._read(response, until_s)
        return HttpAnswer.of(response.status_code, content, response.headers)

    def close(self) -> None:
        """Close what is idle now and what is in use as soon as it comes back."""
        self._closed = True
        idle = self._idle_here()
        with idle.lock:
            sessions, idle.sessions = idle.sessions, []
        for session in sessions:
            session.close()

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        idle = self._idle_here()
        with idle.lock:
            session = idle.sessions.pop() if idle.sessions else None
        session = session or new_session()
        try:
            yield session
        finally:
            with idle.lock:
                keep = not self._closed and len(idle.sessions) < _MOST_IDLE
                if keep:
                    idle.sessions.append(session)
            if not keep:
                session.close()

    def _idle_here(self) -> _Idle:
        """A forked process begins with none. What it drops shuts nothing down: its parent has the socket too."""
        if self._idle.process != os.getpid():
            self._idle = _Idle()
        return self._idle

    def _open(self, session: requests.Session, request: requests.Request, timeout_s: float) -> requests.Response:
        timeouts_s = (min(self._connect_timeout_s, timeout_s), timeout_s)
        prepared = session.prepare_request(request)
        try:
            return session.send(prepared, stream=True, allow_redirects=False, timeout=timeouts_s)
        except requests.Timeout as error:
            raise BackendTimeout(_said(error, timeout_s)) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if _was_too_slow(error):
                raise BackendTimeout("the request could not be sent in time") from error
            raise ConnectionFailed(_cause(error)) from error

    def _read(self, response: requests.Response, until_s: float) -> bytes:
        left_s = max(0.0, until_s - self._clock.monotonic())
        with watchdog(left_s, response.raw.shutdown) as expired:
            try:
                data = _received(response.raw)
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


def _raise_if_set(left: threading.Event | None) -> None:
    if left is not None and left.is_set():
        raise _Left


def _received(raw: urllib3.BaseHTTPResponse) -> bytes:
    """The body as it was sent, or more of it than is allowed. Only a read of nothing tells that it is whole."""
    received = bytearray()
    while piece := raw.read(MAX_RESPONSE_BYTES + 1 - len(received), decode_content=False):
        received += piece
        if len(received) > MAX_RESPONSE_BYTES:
            break
    return bytes(received)


def _said(error: requests.Timeout, timeout_s: float) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    return f"no answer within {timeout_s:.1f} s"


def _was_too_slow(error: Exception) -> bool:
    """Whether it is the socket's own timeout, which the library takes for a broken connection while it sends."""
    broken = error.args[0] if error.args else None
    return isinstance(broken, urllib3.exceptions.ProtocolError) and isinstance(broken.args[-1], TimeoutError)


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
