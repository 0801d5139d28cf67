"""An image server that costs the measured machine little: ready-made answers, one thread, a process of its own."""

import asyncio
import multiprocessing
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

_START_TIMEOUT_S = 60
# A whole 12-megapixel JPEG fits, where the kernel allows it: one system call per answer.
_SEND_BUFFER_BYTES = 4 * 1024 * 1024
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ImageServer:
    """A running server; `urls` maps the names it was given to where they are served."""

    pid: int
    base_url: str
    urls: Mapping[str, str]


@contextmanager
def image_server(
    files: Mapping[str, bytes], *, host: str = "127.0.0.1", delay_s: float = 0.0, other: bytes | None = None
) -> Iterator[ImageServer]:
    """Serve `files`, by name, on a free port of `host` until the block ends. Queries are ignored.

    Each answer leaves `delay_s` after its request. With `other` each answer is that, head and all.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(_answers(files, other), host, delay_s, there), daemon=True)
    process.start()
    try:
        if not here.poll(_START_TIMEOUT_S):
            raise TimeoutError("the image server did not start")
        base_url = f"http://{host}:{here.recv()}"
        yield ImageServer(process.pid or 0, base_url, {name: f"{base_url}/{name}" for name in files})
    finally:
        process.terminate()
        process.join()


def _answers(files: Mapping[str, bytes], other: bytes | None) -> dict[bytes, bytes]:
    return {
        f"/{name}".encode(): other or b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        for name, data in files.items()
    }


def _serve(answers: dict[bytes, bytes], host: str, delay_s: float, port: Pipe) -> None:
    asyncio.run(_serve_until_terminated(answers, host, delay_s, port))


async def _serve_until_terminated(answers: dict[bytes, bytes], host: str, delay_s: float, port: Pipe) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Static(answers, delay_s), host, 0)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Static(asyncio.Protocol):
    def __init__(self, answers: Mapping[bytes, bytes], delay_s: float) -> None:
        self._answers = answers
        self._delay_s = delay_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            request, _, self._received = self._received.partition(b"\r\n\r\n")
            path = request.split(b" ", 2)[1].partition(b"?")[0]
            answer = self._answers.get(path, _NOT_FOUND)
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)
            else:
                self._transport.write(answer)
