"""What CLIP_DEVICE and CLIP_ENGINE become on machines with and without CUDA."""

from typing import Literal

import pytest

from core.clip.choice import choose_devices, choose_engine, choose_max_batch, memory_bytes
from core.errors import StartError


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
        pytest.param("cuda:2", 2, id="no third"),
        pytest.param("tpu", 1, id="no such thing"),
    ],
)
def test_device_that_is_not_here_is_refused(setting: str, count: int) -> None:
    """Never another one instead, and the line says how many there are."""
    with pytest.raises(StartError, match=rf"\ACLIP_DEVICE: {setting} is not here: .* {count} CUDA devices\Z"):
        choose_devices(setting, lambda: count)


@pytest.mark.parametrize("setting", [pytest.param("cuda", id="cuda"), pytest.param("cuda:1", id="the second")])
def test_cuda_that_is_asked_for_and_not_there_is_explained(setting: str) -> None:
    """Never the CPU instead: the line says what is in the way."""
    with pytest.raises(StartError, match=rf"\ACLIP_DEVICE: {setting} is not here: the reason\Z"):
        choose_devices(setting, lambda: 0, lambda: "the reason")


@pytest.mark.parametrize("setting", [pytest.param("auto", id="auto"), pytest.param("cpu", id="cpu")])
def test_nobody_asks_for_a_reason_when_the_cpu_will_do(setting: str) -> None:
    """Explaining imports torch, which a start on OpenVINO does without."""

    def explain() -> str:
        raise AssertionError("explained")

    assert ["cpu"] == choose_devices(setting, lambda: 0, explain)


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


@pytest.mark.parametrize(
    ("setting", "device_bytes", "expected"),
    [
        pytest.param("auto", [], 32, id="a CPU"),
        pytest.param("auto", [24 * 10**9], 32, id="24 GB"),
        pytest.param("auto", [40 * 10**9 - 1], 32, id="just below 40 GB"),
        pytest.param("auto", [40 * 10**9], 64, id="40 GB"),
        pytest.param("auto", [151 * 10**9, 24 * 10**9], 32, id="a large one beside a small one"),
        pytest.param("auto", [85 * 10**9, 85 * 10**9], 64, id="two large ones"),
        pytest.param(8, [85 * 10**9], 8, id="asked for"),
        pytest.param(128, [], 128, id="asked for on a CPU"),
    ],
)
def test_largest_batch(setting: Literal["auto"] | int, device_bytes: list[int], expected: int) -> None:
    """`auto` is what the smallest GPU of all is good for; a number is a number."""
    assert expected == choose_max_batch(setting, device_bytes)


def test_cpu_has_no_memory_of_its_own() -> None:
    """And torch, whose import takes a second, is not asked."""
    assert [] == memory_bytes(["cpu"])
