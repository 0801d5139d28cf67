"""A reader's shell, and the terminals beside it: bash processes that keep what one block leaves for the next."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tools.docs_check.blocks import Block

_BASH = "/bin/bash"
_LOOK_S = 0.5
# With everything to install, on a slow network.
_START_S = 900.0
_END_S = 30.0

# What a new terminal has. The rest, a secret or a backend for instance, the documents must say themselves.
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "SSL_CERT_FILE")


class BlockFailed(Exception):
    """The message names the block and says what its commands have done."""


def clean_environment() -> dict[str, str]:
    """Of a terminal that was just opened."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


class Shell:
    """Runs one block after another in one bash, which ends with the first command that fails."""

    def __init__(self, process: "subprocess.Popen[str]", commands: IO[str], answers: IO[str], answering: int) -> None:
        self._process = process
        self._commands = commands
        self._answers = answers
        self._answering = answering

    def run(self, block: Block) -> None:
        """Raises `BlockFailed`."""
        text = block.text if block.language == "sh" else _with_python(block.text)
        # The shell reads all of a block before it runs it. What it runs has neither the shell's own commands to read
        # from nor the pipe on which the shell answers.
        script = f"{{\n{text}\n}} </dev/null {self._answering}>&-\necho done >&{self._answering}\n"
        with suppress(BrokenPipeError):
            self._commands.write(script)
            self._commands.flush()
        if not self._answers.readline():
            raise BlockFailed(f"{block.place}: exit status {self._process.wait(_END_S)}")


@contextmanager
def shell(folder: Path, environment: Mapping[str, str]) -> Iterator[Shell]:
    """A shell in `folder`; it and what it has left running end with the context."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [_BASH, "-euo", "pipefail", "-s"],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.PIPE,
        text=True,
        pass_fds=[writing],
        start_new_session=True,
    )
    os.close(writing)
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    try:
        with os.fdopen(reading) as answers:
            yield Shell(process, process.stdin, answers, writing)
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        _end(process)


def _with_python(text: str) -> str:
    return f".venv/bin/python - <<'END-OF-BLOCK'\n{text}\nEND-OF-BLOCK"


@contextmanager
def terminal(block: Block, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A terminal where `block` runs until the context ends; entered when its URL answers. Raises `BlockFailed`."""
    process = subprocess.Popen(
        [_BASH, "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(block, process)
        yield
    finally:
        _end(process)


def _wait_for(block: Block, process: "subprocess.Popen[bytes]") -> None:
    until_s = time.monotonic() + _START_S
    while not _answers(block.detail):
        if process.poll() is not None:
            raise BlockFailed(f"{block.place}: ended with status {process.returncode} before {block.detail} answered")
        if time.monotonic() > until_s:
            raise BlockFailed(f"{block.place}: {block.detail} did not answer within {_START_S:.0f} s")
        time.sleep(_LOOK_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - an address of this machine
            return True
    except (OSError, urllib.error.URLError):
        return False


def _end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Everything in the process's session: what a reader ends by closing the terminal."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} did not end", file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
