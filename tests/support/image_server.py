"""A web server that holds images: what a test adds under a path is what a download of that path gets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    images = ImageServer(f"http://127.0.0.1:{httpd.server_address[1]}")
    httpd.images = images  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield images
    finally:
        for gate in images.gates.values():
            gate.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An idle kept-alive connection must not hold up the end of the test.
    timeout = 2

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

    def log_message(self, *_arguments: object) -> None:
        """Keep the test's output to the test's words."""
