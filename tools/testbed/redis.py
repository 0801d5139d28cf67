"""A real Redis on a free port of loopback, which keeps nothing on disk."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tools.testbed.loopback import kept_port

_START_TIMEOUT_S = 30.0


def is_installed() -> bool:
    """`make redis` installs it."""
    return shutil.which("redis-server") is not None


class Redis:
    """One server, which can be ended, started again on the same port, and paused."""

    def __init__(self, folder: str, port: int) -> None:
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it accepts connections."""
        where = ["--bind", "127.0.0.1", "--port", str(self._port), "--dir", self._folder]
        self._process = subprocess.Popen(
            ["redis-server", *where, "--save", "", "--appendonly", "no"],  # noqa: S607 - wherever Debian puts it
            stdout=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < until_s and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError("no Redis on its port")

    def stop(self) -> None:
        """End it at once, and all that it has counted."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """From now on it takes connections and answers nothing."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextmanager
def redis_server() -> Iterator[Redis]:
    """A running Redis until the block ends."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, kept_port() as port:
        server = Redis(folder, port)
        server.start()
        try:
            yield server
        finally:
            server.stop()
