"""How much processor this process may use, and what it can do. No torch here: it is asked before torch loads."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")

# Without one of these, bfloat16 is emulated and tens of times slower than float32.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def available_cores(cgroup: Path = _CGROUP) -> int:
    """Cores this process may use: the scheduler's affinity, cut by the container's quota; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    quota = _quota_cores(cgroup)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def limit_library_threads(cores: int) -> None:
    """Tell the math libraries how many threads to start. Call it before the first import of torch.

    libgomp sizes its pool by the host's cores, not by the container's quota. A user's own OMP_NUM_THREADS wins.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    try:
        cpuinfo = _CPUINFO.read_text()
    except OSError:
        return False
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return bool(_BFLOAT16_FLAGS & set(flags.split()))


def fastest_float() -> str:
    """The numeric type, of those with a fraction, in which this processor multiplies fastest."""
    return "bfloat16" if has_bfloat16() else "float32"


def processor() -> str:
    """Return the processor's name as the kernel has it; empty where it says none."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    named = next((line for line in lines if line.startswith("model name")), "")
    return named.partition(":")[2].strip()


def _quota_cores(cgroup: Path) -> float | None:
    """Version 2 of control groups has one file, version 1 has two; no file, `max` and -1 are no quota."""
    text = _read(cgroup / "cpu.max")
    if text is not None:
        quota, period = text.split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = _read(cgroup / "cpu" / "cpu.cfs_quota_us"), _read(cgroup / "cpu" / "cpu.cfs_period_us")
    if quota_us is None or period_us is None or int(quota_us) <= 0:
        return None
    return int(quota_us) / int(period_us)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
