"""The driver with asyncio: does a flow's effects in an event loop, over `httpx`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy

import anyio
import httpx

from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import (
    MAX_RESPONSE_BYTES,
    Effect,
    Exchange,
    Flow,
    HttpAnswer,
    InProcess,
    Pause,
    Result,
    is_encoded,
)
from clip_embedding_client.errors import BackendTimeout, ClientClosed, ConnectionFailed, UnreadableResponse

_BROKE_BEFORE = "the connection broke before an answer came"
_BROKE_WITHIN = "the connection broke in the middle of the answer"


class AsyncDriver:
    """Runs any number of flows, in one event loop."""

    def __init__(self, *, connect_timeout_s: float, clock: Clock) -> None:
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        # Proxies and credentials of the environment are not used, cookies not kept and redirects not followed.
        self._http = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def run(self, flow: Flow[Result]) -> Result:
        """Return the flow's result. Raises what it raises, and `ClientClosed` after `close`."""
        if self._http.is_closed:
            raise ClientClosed
        undoes = False
        try:
            effect = next(flow)
            while True:
                # A cancelled scope of anyio cancels whatever is awaited in it, also what is done to undo something.
                with anyio.CancelScope(shield=undoes):
                    result, error = await self._done(effect)
                undoes = undoes or isinstance(error, (asyncio.CancelledError, _CancelledWithAnswer))
                if isinstance(error, _CancelledWithAnswer):
                    effect = _after_answer(flow, error)
                else:
                    effect = flow.send(result) if error is None else flow.throw(error)
        except StopIteration as done:
            value: Result = done.value
            return value

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _done(self, effect: Effect) -> tuple[object, BaseException | None]:
        """What came of it, or what was raised; also a cancellation: the flow may have something to undo, a job."""
        try:
            return await self._perform(effect), None
        except BaseException as error:
            return None, error

    async def _perform(self, effect: Effect) -> object:
        if isinstance(effect, Exchange):
            return await self._exchange(effect)
        if isinstance(effect, Pause):
            await self._clock.asleep(effect.seconds)
            return None
        return await _in_thread(effect)

    async def _exchange(self, exchange: Exchange) -> HttpAnswer:
        # Closed in the middle of a call: to be sent again would not help.
        if self._http.is_closed:
            raise ClientClosed
        data = await asyncio.to_thread(exchange.data) if exchange.is_heavy else exchange.data()
        progress = _Progress()
        try:
            return await self._uncancelled(exchange, data, progress)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise BackendTimeout(_too_slow(error, exchange.timeout_s, progress)) from error
        # RuntimeError and ValueError: a client that is being closed, a header that is none.
        except (httpx.HTTPError, httpx.StreamError, OSError, RuntimeError, ValueError) as error:
            raise ConnectionFailed(_BROKE_WITHIN if progress.head_came else _cause(error)) from error

    async def _uncancelled(self, exchange: Exchange, data: bytes | None, progress: _Progress) -> HttpAnswer:
        """A cancellation reaches httpx as one of anyio's, against which it shields the closing of what it has open. One
        of asyncio's in that moment would leave a connection in use for good.
        """
        scope = anyio.CancelScope()

        async def answer() -> HttpAnswer:
            with scope:
                # Of all of it: httpx bounds each read alone, and what drips would take for ever.
                with anyio.fail_after(exchange.timeout_s):
                    return await self._answer(exchange, data, progress)
            raise asyncio.CancelledError

        task = asyncio.ensure_future(answer())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as cancellation:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            # Looked at in any case: or else asyncio would say that nobody has.
            if not task.cancelled() and task.exception() is None:
                raise _CancelledWithAnswer(task.result(), cancellation) from None
            raise

    async def _answer(self, exchange: Exchange, data: bytes | None, progress: _Progress) -> HttpAnswer:
        timeouts = httpx.Timeout(exchange.timeout_s, connect=min(self._connect_timeout_s, exchange.timeout_s))
        async with self._http.stream(
            exchange.method, exchange.url, content=data, headers=exchange.all_headers(), timeout=timeouts
        ) as response:
            progress.head_came = True
            content = None if is_encoded(response.headers) else await _read(response)
            return HttpAnswer.of(response.status_code, content, response.headers)


class _CancelledWithAnswer(BaseException):
    """A cancellation that came when the answer had come too. That may name a job, which is to be cancelled."""

    def __init__(self, answer: HttpAnswer, cancellation: asyncio.CancelledError) -> None:
        super().__init__()
        self.answer = answer
        self.cancellation = cancellation


def _after_answer(flow: Flow[Result], cancelled: _CancelledWithAnswer) -> Effect:
    """Let the flow learn the answer, and of the cancellation in place of what it asks for next. Return what undoes it.

    A flow that has ended with the answer has nothing to undo; what it ended with, nobody waits for.
    """
    try:
        flow.send(cancelled.answer)
    except Exception:
        raise cancelled.cancellation from None
    return flow.throw(cancelled.cancellation)


class _Progress:
    """How far an exchange has come when it breaks."""

    head_came = False


async def _read(response: httpx.Response) -> bytes:
    received = bytearray()
    async for piece in response.aiter_raw():
        received += piece
        if len(received) > MAX_RESPONSE_BYTES:
            raise UnreadableResponse(f"the answer is larger than {MAX_RESPONSE_BYTES:,} bytes")
    return bytes(received)


async def _in_thread(effect: InProcess) -> object:
    try:
        return await asyncio.to_thread(effect.call)
    except asyncio.CancelledError:
        effect.abandon()
        raise


def _too_slow(error: Exception, timeout_s: float, progress: _Progress) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    return "the answer did not end in time" if progress.head_came else f"no answer within {timeout_s:.1f} s"


def _cause(error: BaseException) -> str:
    """Say what broke in words of ours: the library's own hold the URL."""
    for each in _chain(error):
        if isinstance(each, ssl.SSLError):
            return "TLS failed"
        if isinstance(each, socket.gaierror):
            return "the host's name cannot be resolved"
        if isinstance(each, ConnectionRefusedError):
            return "nothing takes connections there"
    return _BROKE_BEFORE


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: httpx wraps the socket's own twice."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
