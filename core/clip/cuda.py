"""Which CUDA devices there are, asked of the driver itself, and why there are none.

torch takes a second to be imported: it is asked only where the driver has a device, or where its answer is an error.
"""

import ctypes
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import metrics
from core.metrics import Reading

logger = logging.getLogger(__name__)

_DRIVER = "libcuda.so.1"
_SUCCESS = 0

# Written by the kernel's module, so it is there in a container that was given no device.
_MODULE_VERSION = Path("/sys/module/nvidia/version")


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver answers: `devices` that CUDA_VISIBLE_DEVICES leaves, and the newest CUDA that it knows.

    `cuda` is (major, minor), None when it does not say; `failure` is the call that failed, with the error's name.
    """

    devices: int
    cuda: tuple[int, int] | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """torch's version, and the CUDA version that it was built for, such as `13.0`; None without CUDA."""

    version: str
    cuda: str | None


def ask_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver | None:
    """Return what the driver answers, or None without a driver.

    Call it after the last fork: the driver does not survive one. Source: the CUDA driver API, "Initialization" and
    "Version Management"; the version can be asked for when nothing else can.
    """
    try:
        driver = load(_DRIVER)
    except OSError:
        return None
    number, count = ctypes.c_int(0), ctypes.c_int(0)
    known = driver.cuDriverGetVersion(ctypes.byref(number)) == _SUCCESS
    cuda = (number.value // 1000, number.value % 1000 // 10) if known else None
    if (error := driver.cuInit(0)) != _SUCCESS:
        return Driver(0, cuda, f"cuInit: {_name_of(driver, error)}")
    if (error := driver.cuDeviceGetCount(ctypes.byref(count))) != _SUCCESS:
        return Driver(0, cuda, f"cuDeviceGetCount: {_name_of(driver, error)}")
    return Driver(count.value, cuda)


def usable_devices(load: Callable[[str], Any] = ctypes.CDLL) -> int:
    """Return how many devices torch can use. It is imported only where the driver has any."""
    driver = ask_driver(load)
    if driver is None or driver.devices == 0:
        return 0
    import torch

    # Why it cannot is said in one line by whoever needs to know; torch would warn in several.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable == 0:
        logger.warning("torch cannot use the CUDA devices of this machine", extra={"torch": torch.__version__})
    return usable


def memory_readings(device: str) -> Iterator[Reading]:
    """How much of a device's memory is used, by whichever process, for metrics; nothing of what is not on CUDA, and of
    what is lost.
    """
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:
        logger.debug("a device does not say how much memory is used", extra={"device": device}, exc_info=True)
        return
    yield Reading(metrics.DEVICE_MEMORY, (device, "used"), total - free)
    yield Reading(metrics.DEVICE_MEMORY, (device, "total"), total)


def why_no_device(load: Callable[[str], Any] = ctypes.CDLL, module_version: Path = _MODULE_VERSION) -> str:
    """Return one line that says why torch has no CUDA device here. Imports torch."""
    import torch

    build = TorchBuild(str(torch.__version__), torch.version.cuda)
    return explanation(ask_driver(load), _read(module_version), build)


def explanation(driver: Driver | None, module_version: str | None, build: TorchBuild) -> str:
    """Name the first thing that is in the way: torch's build, the driver, its age, its devices.

    `module_version` is that of the kernel's NVIDIA module, such as `550.54.14`, None where it is not loaded.
    """
    if build.cuda is None:
        return f"torch {build.version} is built without CUDA; take an image built with TORCH=cuda"
    built = f"torch {build.version} is built for CUDA {build.cuda}"
    loaded = f"driver {module_version}" if module_version else "driver of unknown version"
    if driver is None:
        host = f"the host has {loaded}" if module_version else "the host may have none"
        return f"no NVIDIA driver in this container ({_DRIVER} is not to be found; {host}); {built}"
    knows = f"for CUDA {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else "for a CUDA that it does not name"
    if driver.cuda is not None and driver.cuda[0] < int(build.cuda.split(".")[0]):
        return f"{loaded}, {knows}, is too old: {built}; take a host with a newer one, or an image for an older CUDA"
    if driver.failure is not None:
        return f"{loaded}, {knows}, has no device to give ({driver.failure}); {built}"
    if driver.devices == 0:
        return f"{loaded}, {knows}, shows no device; {built}"
    return f"{loaded}, {knows}, has devices ({driver.devices}) and torch cannot use them; {built}"


def _name_of(driver: Any, error: int) -> str:  # noqa: ANN401 - a library loaded by ctypes
    """The driver's name for an error, such as CUDA_ERROR_NO_DEVICE, or its number."""
    name = ctypes.c_char_p()
    if driver.cuGetErrorName(error, ctypes.byref(name)) != _SUCCESS or name.value is None:
        return f"error {error}"
    return name.value.decode("ascii", errors="replace")


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
