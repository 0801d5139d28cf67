"""How much memory GPUs have, as a scripted driver tells it, and as this machine does."""

import ctypes
import sys

import pytest

from core.clip.gpu_memory import ask_memory, gpu_memory_bytes, of_device
from core.errors import StartError
from tests.core.clip.test_cuda import ScriptedDriver, no_driver

_GB = 1_000_000_000


class DriverWithMemory(ScriptedDriver):
    """Device 0 has one gigabyte, device 1 two, and so on; `of_memory` is what the last call answers."""

    of_memory = 0

    def cuDeviceGet(self, device: object, number: int) -> int:
        # A handle is not its number.
        ctypes.cast(device, ctypes.POINTER(ctypes.c_int))[0] = 70 + number  # type: ignore[arg-type]
        return 0

    def cuDeviceTotalMem_v2(self, total: object, device: ctypes.c_int) -> int:
        ctypes.cast(total, ctypes.POINTER(ctypes.c_size_t))[0] = (device.value - 69) * _GB  # type: ignore[arg-type]
        return self.of_memory


def test_memory_of_each_device() -> None:
    """In the driver's order."""
    assert [_GB, 2 * _GB] == ask_memory(DriverWithMemory(2).load)


def test_no_device_no_memory() -> None:
    """Neither without a driver, nor with one that has no device or does not start."""
    assert [] == ask_memory(no_driver)
    assert [] == ask_memory(DriverWithMemory(0).load)
    assert [] == ask_memory(DriverWithMemory(2, of_init=100).load)


def test_device_that_does_not_tell_is_an_error() -> None:
    """A guess would be believed."""
    driver = DriverWithMemory(1)
    driver.of_memory = 1
    with pytest.raises(RuntimeError, match="device 0"):
        ask_memory(driver.load)


@pytest.mark.parametrize(
    ("clip_device", "expected"),
    [
        pytest.param("auto", [1, 2], id="auto"),
        pytest.param("cuda", [1, 2], id="every one"),
        pytest.param("cuda:1", [2], id="one of them"),
        pytest.param("cuda:7", [], id="one that is not there"),
    ],
)
def test_devices_of_the_setting(clip_device: str, expected: list[int]) -> None:
    """Those on which each worker would have a model."""
    assert expected == of_device(clip_device, [1, 2])


def test_another_process_asks() -> None:
    """This one may fork afterwards; what it is told is what the driver of this machine says."""
    assert ask_memory() == gpu_memory_bytes("auto")


def test_answer_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for a machine without a GPU."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StartError, match=r"^WORKERS: "):
        gpu_memory_bytes("auto")
