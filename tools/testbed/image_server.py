"""A web server that holds images: what a test adds under a path is what a download of that path gets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tools.testbed.loopback import QuietHandler, base_url, serving


class Gate:
    """Holds a path's answers back until it is opened, and counts the requests that have arrived at it."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._arrived = threading.Semaphore(0)

    def open(self) -> None:
        """Let every request through, those that wait and those to come."""
        self._opened.set()

    def wait_for_request(self, timeout_s: float = 400.0) -> None:
        """Wait until one more request has arrived."""
        assert self._arrived.acquire(timeout=timeout_s), "no request came to the gate"

    def request_came(self) -> bool:
        """Whether one more request has arrived by now."""
        return self._arrived.acquire(blocking=False)

    def pass_through(self) -> None:
        """What a request does here."""
        self._arrived.release()
        self._opened.wait()


@dataclass(slots=True)
class ImageServer:
    """`files` maps a path to the bytes answered for it; any other path is a 404. `gates` hold a path's answer back, and
    `busy` paths are answered 503 instead; `redirects` lead elsewhere. `most_at_once` is of requests that were there at
    the same time.
    """

    base_url: str
    files: dict[str, bytes] = field(default_factory=dict)
    gates: dict[str, Gate] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    redirects: dict[str, str] = field(default_factory=dict)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, data: bytes) -> str:
        """Serve `data` under `path` and return its URL."""
        self.files[path] = data
        return self.base_url + path

    def add_gated(self, path: str, data: bytes) -> tuple[str, Gate]:
        """Like `add`, but the answer is held until the returned gate is opened."""
        gate = self.gates[path] = Gate()
        return self.add(path, data), gate

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A request is there for as long as the block."""
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self._lock:
                self._at_once -= 1


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
                gate.open()


class _Handler(QuietHandler):
    def do_GET(self) -> None:
        images: ImageServer = self.server.images  # type: ignore[attr-defined]
        with images.counted():
            self._answer(images, self.path.partition("?")[0])

    def _answer(self, images: ImageServer, path: str) -> None:
        if path in images.gates:
            images.gates[path].pass_through()
        data = None if path in images.busy else images.files.get(path)
        status = 503 if path in images.busy else 302 if path in images.redirects else 404 if data is None else 200
        # Whoever asked may have given up, or have been killed, while the gate was closed.
        with suppress(ConnectionError):
            self.send_response(status)
            if status == 302:
                self.send_header("Location", images.redirects[path])
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")
