"""`python -m bulk` as somebody runs it: a process of its own, on a Ray of this file's tests or on one of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import numpy as np
import numpy.typing as npt
import psutil
from pyarrow import parquet

from tools.testbed.process import ROOT, environment

# Nets, not expectations.
_DONE_WITHIN_S = 600.0
_PROGRAM = ("-m", "bulk")
_SOON_S = 400.0
_LOOK_AGAIN_S = 0.05

# Ray's processes let others go first. Beside whatever uses every core that is hardly any processor at all.
AS_GOOD_AS_OTHERS = {"RAY_worker_niceness": "0"}

# A Ray that is not alone asks for one.
_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5c" * 32}

_HEAD = """
import sys, ray
ray.init("local", include_dashboard=False, num_cpus=4, num_gpus=1, object_store_memory=200_000_000)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(slots=True)
class Command:
    """A running one."""

    process: "subprocess.Popen[str]"
    output: Path

    def end(self) -> Ended:
        """Wait for it."""
        out, err = self.process.communicate(timeout=_DONE_WITHIN_S)
        return Ended(self.process.returncode, out, err)

    def wait_for_pieces(self, count: int) -> None:
        """Until so many have been kept: of those that are in no part yet."""
        self.wait_for(lambda: len(pieces_of(self.output)) >= count)

    def wait_for(self, done: Callable[[], object]) -> None:
        until_s = time.monotonic() + _SOON_S
        while not done():
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise AssertionError(self.end() if self.process.poll() is not None else "waited in vain")
            time.sleep(_LOOK_AGAIN_S)


@dataclass(frozen=True, slots=True)
class Head:
    """A Ray that stays: its processes are below `pid`, and `settings` lead there."""

    pid: int
    settings: dict[str, str]


@contextmanager
def ray_folder() -> Iterator[Path]:
    """Where Ray has its sockets: their paths must be short, and pytest's folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


@contextmanager
def head(settings: dict[str, str]) -> Iterator[Head]:
    """A Ray for many commands, which is there until the block ends; every process of it has `settings`."""
    with ray_folder() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", _HEAD],
            cwd=ROOT,
            env=_environment({**_TOKEN, **settings, "RAY_TMPDIR": str(folder)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield Head(process.pid, {**_TOKEN, "RAY_ADDRESS": process.stdout.readline().strip()})
        finally:
            process.communicate(timeout=_SOON_S)


@contextmanager
def started(
    arguments: Sequence[str], settings: dict[str, str], *, output: Path, program: Sequence[str] = _PROGRAM
) -> Iterator[Command]:
    """Run a command until the block ends; nothing of it is left running."""
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Command(process, output)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def run(
    arguments: Sequence[str], settings: dict[str, str], *, output: Path, program: Sequence[str] = _PROGRAM
) -> Ended:
    """Run a command to its end."""
    with started(arguments, settings, output=output, program=program) as command:
        return command.end()


def pieces_of(output: Path) -> list[Path]:
    return list((output / "_bulk" / "pieces").glob("part-*.parquet"))


def kill_actor(root_pid: int, stage: str) -> None:
    """End a process of a stage, as a machine without memory does; of the Ray below `root_pid` alone."""
    _kill_soon(root_pid, lambda process: stage in _title(process), stage)


def kill_decoder(root_pid: int) -> None:
    """The same for the stage that decodes, found by its image processes.

    By its name it is not always found: it works on two pieces, and with the end of the first Ray calls it idle.
    """
    _kill_soon(root_pid, _has_image_processes, "Decode")


def _kill_soon(root_pid: int, is_wanted: Callable[[psutil.Process], bool], what: str) -> None:
    """It may not have begun yet."""
    until_s = time.monotonic() + _SOON_S
    while not (found := [one for one in psutil.Process(root_pid).children(recursive=True) if is_wanted(one)]):
        assert time.monotonic() < until_s, f"no process of {what}"
        time.sleep(_LOOK_AGAIN_S)
    found[0].send_signal(signal.SIGKILL)


def _has_image_processes(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any("from core.images" in _title(child) for child in process.children())
    return False


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return " ".join(process.cmdline())
    return ""


@dataclass(frozen=True, slots=True)
class Table:
    """An output as its reader finds it."""

    ids: list[object]
    vectors: npt.NDArray[np.float32]
    rejects: dict[object, tuple[str, bool]]
    fingerprints: set[str]


def table_of(output: Path) -> Table:
    """Of all parts."""
    vectors = [parquet.read_table(path) for path in sorted((output / "vectors").iterdir())]
    rejects = [parquet.read_table(path) for path in sorted((output / "rejects").iterdir())]
    return Table(
        ids=[one for table in vectors for one in table.column("id").to_pylist()],
        vectors=np.concatenate([np.array(table.column("vector").to_pylist(), np.float32) for table in vectors]),
        rejects={row["id"]: (row["code"], row["retryable"]) for table in rejects for row in table.to_pylist()},
        fingerprints={table.schema.metadata[b"fingerprint"].decode() for table in (*vectors, *rejects)},
    )


def _environment(settings: dict[str, str]) -> dict[str, str]:
    # What Ray counts as this run's own processes must not depend on what started the tests.
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return environment(**AS_GOOD_AS_OTHERS, **kept, **settings)
