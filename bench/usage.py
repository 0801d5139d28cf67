"""What a pod's processes and threads have used of the processor, as the kernel keeps it, and in which stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

# Stages of the main process. A thread's name says which one it works for.
HUB, REQUESTS, DEVICES, DOWNLOADS, DECODES, OTHER = "hub", "requests", "devices", "downloads", "decodes", "other"
STAGES = (HUB, REQUESTS, DEVICES, DOWNLOADS, DECODES, OTHER)

_BY_PREFIX = (("device", DEVICES), ("download", DOWNLOADS), ("decode", DECODES), ("request", REQUESTS))
# Python's name for a thread that it meets in a log call or a lock, and has not started.
_FOREIGN = "Dummy-"


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds up to a moment.

    `main_s` is the worker's, with its threads that have ended; `others_s` its descendants', with those that have
    ended and were waited for. `threads_s`: of the worker's present threads, by native id.
    """

    main_s: float
    others_s: float
    threads_s: Mapping[int, float]

    @classmethod
    def so_far(cls, worker: psutil.Process) -> "Usage":
        """Costs the worker nothing: all of it is read from outside."""
        times = worker.cpu_times()
        children = sum(map(_with_ended_children_s, worker.children(recursive=True)))
        threads_s = {int(task.name): _thread_s(task) for task in Path(f"/proc/{worker.pid}/task").iterdir()}
        return cls(times.user + times.system, times.children_user + times.children_system + children, threads_s)


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds between two moments. The stages add up to `main_s`."""

    main_s: float
    others_s: float
    stages_s: Mapping[str, float]

    def __add__(self, other: "Spent") -> "Spent":
        stages_s = {stage: self.stages_s[stage] + other.stages_s[stage] for stage in STAGES}
        return Spent(self.main_s + other.main_s, self.others_s + other.others_s, stages_s)


def spent(before: Usage, after: Usage, names: Mapping[int, str], main_thread: int) -> Spent:
    """What was used between the two. `names` are of Python's own threads at the end, by native id.

    What threads have used that ended meanwhile is the process's and no thread's: it counts as other.
    """
    main_s = after.main_s - before.main_s
    stages_s = dict.fromkeys(STAGES, 0.0)
    for thread, total_s in after.threads_s.items():
        stage = HUB if thread == main_thread else stage_of(names.get(thread))
        stages_s[stage] += total_s - before.threads_s.get(thread, 0.0)
    # The kernel counts a process in ticks of 10 ms, and a thread in nanoseconds.
    stages_s[OTHER] += max(0.0, main_s - sum(stages_s.values()))
    return Spent(main_s, after.others_s - before.others_s, stages_s)


def stage_of(name: str | None) -> str:
    """The stage of a thread but the main one; None is one that Python has not started: gevent's, for a request."""
    if name is None or name.startswith(_FOREIGN):
        return REQUESTS
    return next((stage for prefix, stage in _BY_PREFIX if name.startswith(prefix)), OTHER)


def _with_ended_children_s(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        # It has ended since it was listed, and counts with its parent from now on.
        return 0.0


def _thread_s(task: Path) -> float:
    """The first field of schedstat is nanoseconds on a processor."""
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
