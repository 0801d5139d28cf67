"""The picture of the smoke test, a red square on white, as PNG, and a web server on loopback that has it.

Written with the standard library: the client needs no image library.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SIZE_PX = 256
_SQUARE_PX = range(64, 192)
_RED = b"\xdc\x14\x14"
_WHITE = b"\xff\xff\xff"


def red_square_png() -> bytes:
    """Return a PNG (8-bit RGB, no interlace; see the PNG specification, section 5)."""
    header = struct.pack(">IIBBBBB", _SIZE_PX, _SIZE_PX, 8, 2, 0, 0, 0)
    # Each row begins with its filter type, 0: none.
    rows = b"".join(b"\x00" + _row(y) for y in range(_SIZE_PX))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


@contextmanager
def serve_on_loopback(data: bytes) -> Iterator[str]:
    """Serve `data` as a PNG on a free port until the block ends; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            """Keep the table clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/red-square.png"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _row(y: int) -> bytes:
    return b"".join(_RED if x in _SQUARE_PX and y in _SQUARE_PX else _WHITE for x in range(_SIZE_PX))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
