"""How much memory the GPUs have, asked in a process of its own: who forks afterwards must not have asked the driver."""

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from core.clip.cuda import DRIVER, ask_driver
from core.errors import StartError

# A driver that has to be started takes seconds.
_TIMEOUT_S = 60.0


def gpu_memory_bytes(clip_device: str) -> list[int]:
    """Return the memory of each GPU that CLIP_DEVICE means, of none where there is none: why, the model's start says.

    Raises `StartError` when that cannot be found out.
    """
    command = [sys.executable, "-m", "core.clip.gpu_memory"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)  # noqa: S603 - our own module
    except (subprocess.SubprocessError, OSError) as error:
        raise StartError("WORKERS: the memory of the GPUs could not be asked for; 1 does not ask") from error
    return of_device(clip_device, json.loads(done.stdout))


def of_device(clip_device: str, every: list[int]) -> list[int]:
    """Those of `every` that CLIP_DEVICE names; `auto` and `cuda` are all."""
    _, _, index = clip_device.partition(":")
    return [bytes_ for number, bytes_ in enumerate(every) if not index or str(number) == index]


def ask_memory(load: Callable[[str], Any] = ctypes.CDLL) -> list[int]:
    """Return the driver's answer for each device. Source: the CUDA driver API, "Device Management"."""
    found = ask_driver(load)
    if found is None or found.devices == 0:
        return []
    driver = load(DRIVER)
    return [_total_bytes(driver, number) for number in range(found.devices)]


def _total_bytes(driver: Any, number: int) -> int:  # noqa: ANN401 - a library loaded by ctypes
    device, total = ctypes.c_int(0), ctypes.c_size_t(0)
    if driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceTotalMem_v2(ctypes.byref(total), device):
        raise RuntimeError(f"the driver does not tell the memory of device {number}")
    return total.value


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask_memory()))
