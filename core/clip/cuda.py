"""How many CUDA devices there are, asked of the driver itself: torch takes a second to be imported and say none."""

import ctypes
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_DRIVER = "libcuda.so.1"
_SUCCESS = 0


def count_devices(load: Callable[[str], Any] = ctypes.CDLL) -> int:
    """Return the number of devices that CUDA_VISIBLE_DEVICES leaves; 0 without a driver, or with one that fails.

    Call it after the last fork: the driver does not survive one. Source: the CUDA driver API, "Initialization".
    """
    try:
        driver = load(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != _SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != _SUCCESS:
        return 0
    return count.value


def usable_devices(load: Callable[[str], Any] = ctypes.CDLL) -> int:
    """Return how many of them torch can use. It is imported only where the driver has any."""
    if count_devices(load) == 0:
        return 0
    import torch

    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable == 0:
        logger.warning("torch cannot use the CUDA devices of this machine", extra={"torch": torch.__version__})
    return usable
