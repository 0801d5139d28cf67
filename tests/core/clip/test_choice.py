"""What CLIP_DEVICE and CLIP_ENGINE become on machines with and without CUDA, which the driver tells."""

import ctypes
from dataclasses import dataclass

import pytest

from core.clip.choice import choose_devices, choose_engine
from core.clip.cuda import count_devices, usable_devices
from core.errors import StartError

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass
class Driver:
    """A libcuda with `devices`, whose calls answer with these results."""

    devices: int
    of_init: int = 0
    of_count: int = 0

    def load(self, name: str) -> "Driver":
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.of_init

    def cuDeviceGetCount(self, count: object) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self.devices  # type: ignore[arg-type]
        return self.of_count


def no_driver(name: str) -> Driver:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        pytest.param(Driver(2), 2, id="two devices"),
        pytest.param(Driver(0), 0, id="none"),
        pytest.param(Driver(2, of_init=_NO_DEVICE), 0, id="the driver does not start"),
        pytest.param(Driver(2, of_count=_NO_DEVICE), 0, id="the driver does not count"),
    ],
)
def test_driver_counts_the_devices(driver: Driver, expected: int) -> None:
    """Whatever it answers but success is no device."""
    assert expected == count_devices(driver.load)


def test_machine_without_a_driver_has_no_device() -> None:
    """The usual CPU machine."""
    assert 0 == usable_devices(no_driver)


@pytest.mark.parametrize(
    ("setting", "count", "expected"),
    [
        pytest.param("auto", 0, ["cpu"], id="auto without"),
        pytest.param("auto", 1, ["cuda"], id="auto with one"),
        pytest.param("auto", 2, ["cuda:0", "cuda:1"], id="auto with two"),
        pytest.param("cpu", 2, ["cpu"], id="the CPU beside two"),
        pytest.param("cuda", 1, ["cuda"], id="cuda"),
        pytest.param("cuda:1", 2, ["cuda:1"], id="the second"),
    ],
)
def test_devices(setting: str, count: int, expected: list[str]) -> None:
    """`auto` is every CUDA device, else the CPU."""
    assert expected == choose_devices(setting, lambda: count)


@pytest.mark.parametrize(
    ("setting", "count"),
    [
        pytest.param("cuda", 0, id="no CUDA"),
        pytest.param("cuda:2", 2, id="no third"),
        pytest.param("tpu", 1, id="no such thing"),
    ],
)
def test_device_that_is_not_here_is_refused(setting: str, count: int) -> None:
    """Never another one instead, and the line says how many there are."""
    with pytest.raises(StartError, match=rf"\ACLIP_DEVICE: {setting} is not here: .* {count} CUDA devices\Z"):
        choose_devices(setting, lambda: count)


def test_nobody_is_asked_for_devices_when_the_cpu_is_meant() -> None:
    """Asking can take a second."""

    def ask() -> int:
        raise AssertionError("asked")

    assert ["cpu"] == choose_devices("cpu", ask)


def test_openvino_is_for_the_cpu() -> None:
    """On CUDA `auto` is torch, and asking for openvino there is refused."""
    assert "openvino" == choose_engine("auto", ["cpu"])
    assert "torch" == choose_engine("auto", ["cuda"])
    with pytest.raises(StartError, match=r"\ACLIP_ENGINE: "):
        choose_engine("openvino", ["cuda"])
