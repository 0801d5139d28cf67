"""A web server of images in a process of its own: pictures of any eight digits at once or late, and given files."""

import asyncio
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from tools.chaos.engine import picture

# `/late/12345678.png` is answered after so long.
LATE_S = 3.0
_PICTURES, _LATE = "/pictures/", "/late/"


@contextmanager
def image_host(files: Mapping[str, bytes] | None = None) -> Iterator[str]:
    """Serve until the block ends; yields the base URL. `files` maps paths to bytes."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, dict(files or {})), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join()
        ours.close()
        theirs.close()


def picture_url(base_url: str, name: str) -> str:
    """The picture that has the vector of `name`."""
    return f"{base_url}{_PICTURES}{name}.png"


def late_url(base_url: str, name: str) -> str:
    """The same, from a host that answers late."""
    return f"{base_url}{_LATE}{name}.png"


def _serve(connection: Connection, files: dict[str, bytes]) -> None:
    asyncio.run(_serve_until_killed(connection, files))


async def _serve_until_killed(connection: Connection, files: dict[str, bytes]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The pod may end a download, or be ended, in the middle.
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(await _content(head.split()[1].decode(), files)))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
    connection.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _content(path: str, files: dict[str, bytes]) -> bytes | None:
    if path.startswith(_LATE):
        await asyncio.sleep(LATE_S)
    name = path.rpartition("/")[2].removesuffix(".png")
    return picture(name) if path.startswith((_PICTURES, _LATE)) else files.get(path)


def _response(content: bytes | None) -> bytes:
    status = "404 Not Found" if content is None else "200 OK"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content or b'')}\r\n\r\n".encode() + (content or b"")
