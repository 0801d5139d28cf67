"""A round trip between a client and a pod: a TCP proxy in a process of its own that holds back each byte for a while.

A client in another place waits for the way there and back with every answer; on loopback it does not. Opening a
connection costs nothing here: clients of the service keep theirs.
"""

import asyncio
import multiprocessing
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import cast
from urllib.parse import urlsplit

_START_TIMEOUT_S = 60


@contextmanager
def delayed(base_url: str, round_trip_s: float) -> Iterator[str]:
    """Yield a URL on loopback that leads to `base_url`; half of `round_trip_s` is spent on each of the two ways."""
    address = urlsplit(base_url)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    target = (address.hostname or "", address.port or 80)
    process = context.Process(target=_run, args=(target, round_trip_s / 2, there), daemon=True)
    process.start()
    try:
        if not here.poll(_START_TIMEOUT_S):
            raise TimeoutError("the proxy did not start")
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def _run(target: tuple[str, int], delay_s: float, port: Pipe) -> None:
    asyncio.run(_serve(target, delay_s, port))


async def _serve(target: tuple[str, int], delay_s: float, port: Pipe) -> None:
    loop = asyncio.get_running_loop()

    async def connect(client: "_End") -> None:
        try:
            await loop.create_connection(lambda: client.other, *target)
        except OSError:
            client.abort()

    server = await loop.create_server(lambda: _joined(delay_s, connect), "127.0.0.1", 0)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


_Connect = Callable[["_End"], Coroutine[None, None, None]]


def _joined(delay_s: float, connect: _Connect) -> "_End":
    """The client's end, joined to the pod's, which is connected as soon as the client's is."""
    client, pod = _End(delay_s, connect), _End(delay_s)
    client.other, pod.other = pod, client
    return client


class _End(asyncio.Protocol):
    """One of the two sockets: what comes in here leaves at the other one, later and in order; None is its end.

    What is under way is held in memory, as much as comes.
    """

    other: "_End"

    def __init__(self, delay_s: float, connect: _Connect | None = None) -> None:
        self._delay_s = delay_s
        self._connect = connect
        self._transport: asyncio.Transport | None = None
        self._under_way: deque[bytes | None] = deque()
        self._due: deque[bytes | None] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._connect is not None:
            self._connecting = asyncio.ensure_future(self._connect(self))
        self.other.deliver()

    def data_received(self, data: bytes) -> None:
        self._send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._send(None)

    def abort(self) -> None:
        """Nobody listens at the other end."""
        if self._transport is not None:
            self._transport.abort()

    def deliver(self) -> None:
        """Hand on what is due, once there is a socket for it."""
        out = self.other._transport
        while out is not None and self._due:
            data = self._due.popleft()
            if data is None:
                out.close()
            elif not out.is_closing():
                out.write(data)

    def _send(self, data: bytes | None) -> None:
        self._under_way.append(data)
        # Each call moves whatever is first: two that are due at once cannot change places.
        asyncio.get_running_loop().call_later(self._delay_s, self._arrive)

    def _arrive(self) -> None:
        self._due.append(self._under_way.popleft())
        self.deliver()
