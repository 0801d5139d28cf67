"""The sentinel's own program: ends its parent when that gives no sign of life for too long.

Started as `python -I -S sentinel_process.py PID` with the signs on its standard input. Only the standard library is
there, and nothing of this project.
"""

import json
import math
import os
import select
import signal
import sys
import time

# A sign of life: within how many seconds the next has to come.
SIGN_BYTES = 4

_SIGNS = 0  # standard input

TICK_S = 0.5

# A tick that took so long means that this process was paused too, or that the machine has no time for anybody.
_PAUSED_TICK_S = 3 * TICK_S

# For writing the stacks of all threads. Then SIGKILL, which needs nothing of whoever is stuck.
_LAST_WORDS_S = 5.0

# Of which the last one counts. Whole signs: each is written at once, and so is read at once.
_MANY_SIGNS = 1024

# Those of a terminal and of service managers, which mean everybody; this process ends when its parent has ended.
_NOT_MEANT = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

# What /proc calls a process that SIGSTOP, or a debugger, has stopped.
_STOPPED_STATES = "Tt"


def main() -> None:
    """Watch over the process whose number is the argument, until it ends."""
    for number in _NOT_MEANT:
        signal.signal(number, signal.SIG_IGN)
    parent = int(sys.argv[1])
    if is_stuck(parent):
        end(parent)


def is_stuck(parent: int) -> bool:
    """Wait until `parent` has been silent for longer than it said: True; or has ended: False."""
    within_s, silent_s = math.inf, 0.0
    while silent_s <= within_s and os.getppid() == parent:
        began_s = time.monotonic()
        if select.select([_SIGNS], [], [], TICK_S)[0]:
            signs = os.read(_SIGNS, _MANY_SIGNS * SIGN_BYTES)
            if not signs:
                return False
            within_s, silent_s = int.from_bytes(signs[-SIGN_BYTES:]), 0.0
        elif is_silence(time.monotonic() - began_s, stopped=is_stopped(parent)):
            silent_s += TICK_S
    return silent_s > within_s


def is_silence(tick_s: float, *, stopped: bool) -> bool:
    """Whether a tick without a sign, which took so long, says anything about the parent: not when either was paused."""
    return tick_s < _PAUSED_TICK_S and not stopped


def end(parent: int) -> None:
    """End `parent`, and then say so: its standard error, which is this process's too, may be what it is stuck at."""
    _send(signal.SIGABRT, parent)
    until_s = time.monotonic() + _LAST_WORDS_S
    while os.getppid() == parent and time.monotonic() < until_s:
        time.sleep(0.05)
    _send(signal.SIGKILL, parent)
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": "CRITICAL",
        "logger": "core.process.sentinel",
        "message": "ended a process that gave no sign of life",
        "pid": parent,
    }
    print(json.dumps(line), file=sys.stderr)


def _send(number: signal.Signals, parent: int) -> None:
    # Once it has ended, the number may be another's.
    if os.getppid() == parent:
        os.kill(parent, number)


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP or a debugger holds the process; False when /proc does not say."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            stat = file.read()
    except OSError:
        return False
    # The name before the state is in brackets, and may hold some.
    return stat.rpartition(")")[2].split()[0] in _STOPPED_STATES


if __name__ == "__main__":
    main()
