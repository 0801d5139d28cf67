"""What the CUDA driver answers, and the one line that is made of it where there is no device."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from core.clip.cuda import Driver, TorchBuild, ask_driver, explanation, usable_devices, why_no_device

_NO_DEVICE = 100
_NAMES = {_NO_DEVICE: b"CUDA_ERROR_NO_DEVICE"}
_INVALID_VALUE = 1

BUILD = TorchBuild("2.13.0", "13.0")


@dataclass
class ScriptedDriver:
    """A libcuda with `devices`, whose calls answer with these results."""

    devices: int
    of_init: int = 0
    of_count: int = 0
    of_version: int = 0
    version: int = 13000

    def load(self, name: str) -> "ScriptedDriver":
        assert name == "libcuda.so.1"
        return self

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.of_init

    def cuDeviceGetCount(self, count: object) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self.devices  # type: ignore[arg-type]
        return self.of_count

    def cuDriverGetVersion(self, version: object) -> int:
        ctypes.cast(version, ctypes.POINTER(ctypes.c_int))[0] = self.version  # type: ignore[arg-type]
        return self.of_version

    def cuGetErrorName(self, error: int, name: object) -> int:
        if error not in _NAMES:
            return _INVALID_VALUE
        ctypes.cast(name, ctypes.POINTER(ctypes.c_char_p))[0] = _NAMES[error]  # type: ignore[arg-type]
        return 0


def no_driver(name: str) -> ScriptedDriver:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        pytest.param(ScriptedDriver(2), Driver(2, (13, 0)), id="two devices"),
        pytest.param(ScriptedDriver(0, version=12080), Driver(0, (12, 8)), id="none"),
        pytest.param(
            ScriptedDriver(2, of_init=_NO_DEVICE),
            Driver(0, (13, 0), "cuInit: CUDA_ERROR_NO_DEVICE"),
            id="does not start",
        ),
        pytest.param(
            ScriptedDriver(2, of_count=803), Driver(0, (13, 0), "cuDeviceGetCount: error 803"), id="does not count"
        ),
        pytest.param(ScriptedDriver(1, of_version=1), Driver(1, None), id="does not say its version"),
    ],
)
def test_driver_is_asked(driver: ScriptedDriver, expected: Driver) -> None:
    """Whatever a call answers but success is no device, and is named."""
    assert expected == ask_driver(driver.load)


def test_machine_without_a_driver_has_no_device() -> None:
    """The usual CPU machine."""
    assert None is ask_driver(no_driver)
    assert 0 == usable_devices(no_driver)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a CUDA device here")
def test_devices_that_torch_cannot_use_do_not_count() -> None:
    """What the driver shows is not enough."""
    assert 0 == usable_devices(ScriptedDriver(2).load)


@pytest.mark.parametrize(
    ("driver", "module", "expected"),
    [
        pytest.param(None, None, ["no NVIDIA driver in this container", "the host may have none"], id="no driver"),
        pytest.param(None, "550.54.14", ["in this container", "the host has driver 550.54.14"], id="not handed in"),
        pytest.param(
            Driver(1, (12, 4)), "550.54.14", ["driver 550.54.14, for CUDA 12.4, is too old"], id="driver too old"
        ),
        pytest.param(
            Driver(0, (13, 0), "cuInit: CUDA_ERROR_NO_DEVICE"),
            "580.65.06",
            ["driver 580.65.06, for CUDA 13.0, has no device to give", "CUDA_ERROR_NO_DEVICE"],
            id="device lost",
        ),
        pytest.param(Driver(0, (13, 1)), "590.1", ["driver 590.1, for CUDA 13.1, shows no device"], id="none visible"),
        pytest.param(Driver(2, (13, 0)), "580.1", ["has devices (2) and torch cannot use them"], id="unusable"),
        pytest.param(Driver(1, None), None, ["driver of unknown version", "does not name"], id="nothing is known"),
    ],
)
def test_reason_names_driver_and_torch(driver: Driver | None, module: str | None, expected: list[str]) -> None:
    """One line, with what is in the way and the CUDA version that torch was built for."""
    line = explanation(driver, module, BUILD)

    assert [] == [words for words in expected if words not in line]
    assert "torch 2.13.0 is built for CUDA 13.0" in line
    assert 1 == len(line.splitlines())


def test_driver_of_the_same_major_version_is_not_too_old() -> None:
    """Since CUDA 11, a driver runs what was built for a later minor version of its own major one."""
    assert "too old" not in explanation(Driver(1, (13, 0)), "580.65.06", TorchBuild("2.14.0", "13.2"))
    assert "too old" not in explanation(Driver(1, (12, 2)), "535.54.03", TorchBuild("2.13.0+cu126", "12.6"))


def test_torch_without_cuda_is_named_first() -> None:
    """With the CPU's build no driver would help."""
    line = explanation(Driver(1, (12, 4)), "550.54.14", TorchBuild("2.13.0+cpu", None))

    assert "torch 2.13.0+cpu is built without CUDA; take an image built with TORCH=cuda" == line


def test_reason_is_made_of_this_machine(tmp_path: Path) -> None:
    """With the versions of the torch that is installed here, whichever it is."""
    line = why_no_device(no_driver, tmp_path / "no-module")

    assert f"torch {torch.__version__} is built" in line
