"""A web server that holds images: what a test adds under a path is what a download of that path gets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.loopback import QuietHandler, base_url, serving


@dataclass(slots=True)
class ImageServer:
    """`files` maps a path to the bytes answered for it; any other path is a 404. `gates` hold a path's answer back."""

    base_url: str
    files: dict[str, bytes] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    requested: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released once for every gated request that has arrived."""

    def add(self, path: str, data: bytes) -> str:
        """Serve `data` under `path` and return its URL."""
        self.files[path] = data
        return self.base_url + path

    def add_gated(self, path: str, data: bytes) -> tuple[str, threading.Event]:
        """Like `add`, but the answer is held until the returned event is set."""
        gate = self.gates[path] = threading.Event()
        return self.add(path, data), gate


@contextmanager
def image_server() -> Iterator[ImageServer]:
    """Run a server on a free port of loopback until the block ends."""
    with serving(_Handler) as httpd:
        images = ImageServer(base_url(httpd))
        httpd.images = images  # type: ignore[attr-defined]
        try:
            yield images
        finally:
            for gate in images.gates.values():
                gate.set()


class _Handler(QuietHandler):
    def do_GET(self) -> None:
        images: ImageServer = self.server.images  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        if path in images.gates:
            images.requested.release()
            images.gates[path].wait(timeout=60)
        data = images.files.get(path)
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")
