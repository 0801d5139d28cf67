"""Real service processes, as `make run` and the images start them: gunicorn, and the serverless handler."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests

ROOT = Path(__file__).resolve().parent.parent.parent
TINY_MODEL = ROOT / "models" / "tiny-shapes"
# One for all processes of all runs: only the first one exports the bundled model.
MODEL_CACHE = ROOT / ".cache" / "models"
SECRET = "test-secret"
# Of the client `tests`.
API_KEY = "a-key-of-at-least-thirty-two-characters"
# A client that the pod of all tests knows by name, beside the common one.
LEAVING, LEAVING_SECRET = "leaving", "another-secret-of-at-least-thirty-two-characters"
GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "pod/gunicorn_conf.py"]
POD = [*GUNICORN, "pod.wsgi:app"]
HANDLER = [sys.executable, "-m", "serverless.handler"]

# What decides a test must be in the test: nothing of the developer's own environment reaches the process.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE")

READY_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 30.0


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process under test, with `settings` over the defaults; an empty value unsets one."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    defaults = {
        "HOST": "127.0.0.1",
        "PORT": "0",
        "CLIP_MODEL": str(TINY_MODEL),
        "CLIP_CACHE_DIR": str(MODEL_CACHE),
        "CLIP_DEVICE": "cpu",
        "CLIP_DTYPE": "float32",
        "EMBEDDING_HMAC_SECRET": SECRET,
        "API_KEYS": f"tests:{API_KEY}",
        "DOWNLOAD_ALLOW_HOSTS": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
    }
    return {name: value for name, value in (inherited | defaults | settings).items() if value != ""}


@dataclass(slots=True)
class ServiceProcess:
    """A running process. `log` reads everything it has written so far."""

    process: "subprocess.Popen[bytes]"
    output: IO[bytes]

    def log(self) -> str:
        return Path(self.output.name).read_text("utf-8", errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """The log's JSON lines; the SDK prints some of its own, into the middle of ours at times."""
        lines = []
        for line in self.log().splitlines():
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict) and "message" in line]

    def wait_for_log(self, message: str) -> dict[str, Any]:
        """Wait for a line that begins with `message` and return its fields."""
        until_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until_s:
            for line in self.log_lines():
                if str(line["message"]).startswith(message):
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {message!r} in the log:\n{self.log()}")

    def wait_for_exit(self) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(READY_TIMEOUT_S)

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(EXIT_TIMEOUT_S)


@dataclass(slots=True)
class PodProcess(ServiceProcess):
    """A running gunicorn."""

    @property
    def base_url(self) -> str:
        """Where it listens, as it says so itself in its log."""
        listening = self.wait_for_log("Listening at:")
        return str(listening["message"]).split()[2]

    def wait_until_ready(self) -> None:
        until_s = time.monotonic() + READY_TIMEOUT_S
        url = self.base_url + "/readyz"
        while time.monotonic() < until_s and self.process.poll() is None:
            with suppress(requests.Timeout):  # a busy machine is no finding
                if requests.get(url, timeout=READY_TIMEOUT_S / 4).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"not ready:\n{self.log()}")

    def kill(self) -> None:
        """End master and worker at once, as a machine that is lost."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(EXIT_TIMEOUT_S)


@contextmanager
def pod_process(
    settings: Mapping[str, str] | None = None,
    *,
    ready: bool = True,
    command: Sequence[str] = POD,
    folder: Path = ROOT,
) -> Iterator[PodProcess]:
    """Run a pod until the block ends; whatever happens in between, nothing of it is left running.

    `folder` is the checkout whose code it runs.
    """
    # At once: a drain waits for connections that a test may have kept.
    with _process(command, settings or {}, folder, end=signal.SIGQUIT) as (process, output):
        pod = PodProcess(process, output)
        if ready:
            pod.wait_until_ready()
        yield pod


@contextmanager
def handler_process(
    settings: Mapping[str, str], arguments: Sequence[str] = (), *, command: Sequence[str] = HANDLER
) -> Iterator[ServiceProcess]:
    """Run the serverless handler until the block ends; it takes jobs as soon as its model is loaded."""
    with _process([*command, *arguments], settings) as (process, output):
        yield ServiceProcess(process, output)


@contextmanager
def _process(
    command: Sequence[str], settings: Mapping[str, str], folder: Path = ROOT, *, end: signal.Signals = signal.SIGTERM
) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    with tempfile.NamedTemporaryFile(prefix="service-", suffix=".log") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**settings), stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield process, output
        finally:
            _end(process, end)


def _end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_TIMEOUT_S)
    # The group outlives its leader if a worker does: the test must not leave it behind.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(EXIT_TIMEOUT_S)
