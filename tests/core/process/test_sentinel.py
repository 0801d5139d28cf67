"""The sentinel beside real processes that hold their interpreter lock, stand still, or end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from core.process.sentinel import Sentinel
from core.process.sentinel_process import TICK_S, is_silence

SOON_S = 60.0

# A busy machine may keep a process from its signs of life for so long, but for no longer than this test pauses it.
PATIENCE_S = 4
PAUSE_S = 6.0

# Says when it has begun, gives signs of life until a line comes on its standard input, and does then what it was told.
# A busy machine may keep it from beginning for longer than its signs may be late: it says first that it has begun, and
# only then that it may be ended.
PROGRAM = """
import ctypes, os, signal, sys, threading, time
from core.process.sentinel import Sentinel, end_on_abort

def show_life(sentinel, shown, ended):
    print("begun", flush=True)
    while not ended.is_set():
        sentinel.alive(int(sys.argv[1]))
        shown.set()
        time.sleep(0.05)

end_on_abort()
if "deaf" in sys.argv:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})
sentinel, shown, ended = Sentinel(), threading.Event(), threading.Event()
sentinel.alive(3600)
if "interrupted" in sys.argv:
    signal.signal(signal.SIGINT, lambda *_: None)
    os.killpg(0, signal.SIGINT)
threading.Thread(target=show_life, args=(sentinel, shown, ended), daemon=True).start()
shown.wait()
sys.stdin.readline()
if "hold" in sys.argv:
    ctypes.PyDLL(None).sleep(3600)
ended.set()
"""


@contextmanager
def watched(*words: str, within_s: int, before: tuple[str, ...] = ()) -> Iterator["subprocess.Popen[str]"]:
    """A process with a sentinel, which has begun."""
    command = [*before, sys.executable, "-c", PROGRAM, str(within_s), *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, process_group=0, **pipes)  # type: ignore[call-overload]
    try:
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Let it go on; its exit status and what it and its sentinel have written."""
    _, written = process.communicate("go\n", timeout=SOON_S)
    return process.returncode, written


def eventually(reached: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not reached():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def sentinel_of(process: "subprocess.Popen[str]") -> psutil.Process:
    [sentinel] = psutil.Process(process.pid).children()
    return sentinel


def has_ended(process: psutil.Process) -> bool:
    """Also when whoever has adopted it has not asked for its status yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_process_that_holds_its_interpreter_is_ended() -> None:
    """No thread of it could do that; the stacks of all its threads are written first."""
    with watched("hold", within_s=1) as process:
        status, written = end_of(process)

    assert signal.SIGABRT == status
    assert "Thread 0x" in written
    assert "in show_life" in written
    assert "no sign of life" in written


def test_terminal_ends_no_sentinel_that_has_not_begun() -> None:
    """Ctrl-C goes to all of a terminal's group, and whoever drains then still needs it."""
    with watched("hold", "interrupted", within_s=1) as process:
        status, _ = end_of(process)

    assert signal.SIGABRT == status


def test_process_that_does_not_hear_is_ended() -> None:
    """Where SIGABRT does not get through, SIGKILL does."""
    with watched("hold", "deaf", within_s=1) as process:
        status, _ = end_of(process)

    assert -signal.SIGKILL == status


def in_a_namespace() -> tuple[str, ...]:
    """What starts a command as the first process of a container; nothing where that is not allowed."""
    command = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    allowed = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if allowed else ()


@pytest.mark.skipif(not in_a_namespace(), reason="no namespaces here")
def test_first_process_of_a_container_is_ended() -> None:
    """The kernel keeps it from every signal that it does not handle, SIGKILL too."""
    with watched("hold", within_s=1, before=in_a_namespace()) as process:
        status, _ = end_of(process)

    assert signal.SIGABRT == status


def test_process_that_stands_still_is_left_alone() -> None:
    """Stopped for longer than its signs may be late, again and again: it goes on and ends as it would have."""
    with watched(within_s=PATIENCE_S) as process:
        for _ in range(2):
            process.send_signal(signal.SIGSTOP)
            time.sleep(PAUSE_S)
            process.send_signal(signal.SIGCONT)
            time.sleep(1.0)
        status, written = end_of(process)

    assert (0, "") == (status, written)


def test_pause_of_both_is_no_silence() -> None:
    """A machine that was paused wakes up everybody at once, the sentinel perhaps first."""
    with watched(within_s=PATIENCE_S) as process:
        sentinel = sentinel_of(process)
        process.send_signal(signal.SIGSTOP)
        sentinel.suspend()
        time.sleep(PAUSE_S)
        sentinel.resume()
        process.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        status, written = end_of(process)

    assert (0, "") == (status, written)


@pytest.mark.parametrize(
    ("tick_s", "stopped", "expected"),
    [
        pytest.param(TICK_S, False, True, id="nobody paused"),
        pytest.param(2 * TICK_S, False, True, id="a little late"),
        pytest.param(4 * TICK_S, False, False, id="sentinel paused"),
        pytest.param(TICK_S, True, False, id="process stopped"),
    ],
)
def test_tick_of_a_pause_does_not_count(tick_s: float, stopped: bool, expected: bool) -> None:
    """A platform may freeze both so often that no sign of life gets through."""
    assert expected == is_silence(tick_s, stopped=stopped)


@pytest.mark.parametrize(
    "end", [pytest.param(end_of, id="by itself"), pytest.param(lambda process: process.kill(), id="killed")]
)
def test_sentinel_ends_with_its_process(end: Callable[["subprocess.Popen[str]"], object]) -> None:
    """However the process ends, its sentinel stays behind in no case."""
    with watched(within_s=60) as process:
        sentinel = sentinel_of(process)
        end(process)
        process.wait(SOON_S)

        eventually(lambda: has_ended(sentinel))


def ignored(process: psutil.Process) -> set[int]:
    """The signals that a process has said it does not want to hear."""
    lines = Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines()
    [mask] = [int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:")]
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_signals_to_everybody_do_not_end_the_sentinel() -> None:
    """Ctrl-C, a terminal that goes, a service manager: the process may want to live on for a while, watched."""
    everybody = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
    with watched("hold", within_s=5) as process:
        sentinel = sentinel_of(process)
        eventually(lambda: everybody <= ignored(sentinel))
        for number in everybody:
            sentinel.send_signal(number)
        # It has heard none of them: it still ends a process that gives no sign of life.
        status, _ = end_of(process)

    assert signal.SIGABRT == status


def test_sentinel_knows_nothing_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment, where secrets are, and nothing loaded but a bare interpreter."""
    monkeypatch.setenv("EMBEDDING_HMAC_SECRET", "a-secret")
    with watched(within_s=60) as process:
        sentinel = sentinel_of(process)
        eventually(lambda: "sentinel_process.py" in " ".join(sentinel.cmdline()))
        environment = Path(f"/proc/{sentinel.pid}/environ").read_bytes()

    assert b"" == environment


def test_dead_sentinel_is_replaced_after_a_while() -> None:
    """Noticed with the next sign, without a zombie; a new one is not started at every sign."""
    now_s = 0.0
    sentinel = Sentinel(clock=lambda: now_s)

    def children() -> list[int]:
        return [child.pid for child in psutil.Process().children() if "sentinel_process.py" in str(child.cmdline())]

    def dies(pid: int) -> bool:
        sentinel.alive(SOON_S)
        return not psutil.pid_exists(pid)

    sentinel.alive(SOON_S)
    [first] = children()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: dies(first))
    sentinel.alive(SOON_S)
    too_early = children()
    now_s = 61.0
    sentinel.alive(SOON_S)
    [second] = children()
    sentinel.close()

    assert [] == too_early
    assert first != second
    assert [] == children()
