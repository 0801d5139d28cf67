"""Where a run took place: processor, versions, commit. A figure without them cannot be compared."""

import os
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from bench.workload import ROOT
from core.process import cpu

# What decides which kernels run, and in which numeric type.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
_PACKAGES = ("torch", "openvino", "transformers", "numpy", "simplejpeg", "gunicorn", "gevent")


def about(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON files say of a run; `settings` are what it was started with."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(Path("/proc/cpuinfo").read_text()),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": commit(),
        "settings": dict(settings),
    }


def machine(cpuinfo: str) -> dict[str, Any]:
    """Processor, cores that may be used, flags that matter and load of the last minute, from /proc/cpuinfo's text."""
    fields = dict(_field(line) for line in cpuinfo.splitlines() if ":" in line)
    present = set(fields.get("flags", "").split())
    return {
        "processor": fields.get("model name", "unknown"),
        "cores": cpu.available_cores(),
        "flags": [flag for flag in _FLAGS if flag in present],
        "load_1m": round(os.getloadavg()[0], 2),
    }


def busy_cpu_s() -> float:
    """Processor seconds that the whole machine has used."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def commit(folder: Path = ROOT) -> str | None:
    """The commit of a checkout, with a plus sign where files have changed since; None without git."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + "+" if _git(folder, "status", "--porcelain") else head
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    output = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603 - constants
    return output.stdout.strip()


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
