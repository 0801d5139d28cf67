"""What becomes of CUDA's errors, raised here without a device, and what is decided before one is touched."""

import pytest
import torch

from core.clip.artifact import open_model
from core.clip.choice import graphs_to_capture
from core.clip.engine import EngineBroken, OutOfDeviceMemory
from core.clip.torch_engine import TorchEngine, device_errors, starting, without_cudnn_attention
from core.errors import StartError
from core.settings import load_settings
from tools.testbed.process import TINY_MODEL


def accelerator_error(code: int) -> torch.AcceleratorError:
    """As torch makes it: CUDA's number beside the words, which are of several lines."""
    error = torch.AcceleratorError("CUDA error: some words\nCompile with TORCH_USE_CUDA_DSA")
    error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory."), OutOfDeviceMemory, id="torch's allocator"),
        pytest.param(accelerator_error(2), OutOfDeviceMemory, id="CUDA's allocator"),
        pytest.param(
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            OutOfDeviceMemory,
            id="cuBLAS",
        ),
        pytest.param(accelerator_error(700), EngineBroken, id="illegal address"),
        pytest.param(accelerator_error(999), EngineBroken, id="unknown"),
        pytest.param(RuntimeError("shapes do not fit"), RuntimeError, id="no fault of the device"),
    ],
)
def test_error_of_cuda_becomes_one_of_the_engines(error: Exception, expected: type[Exception]) -> None:
    """Lost, or too large a batch: who runs batches knows these two and none of CUDA's."""
    with pytest.raises(Exception, match=r"\w") as raised, device_errors():
        raise error

    assert expected is type(raised.value)
    assert error in (raised.value, raised.value.__cause__)


def test_batch_too_large_for_the_device_is_halved() -> None:
    """The batcher asks the engine which errors those are."""
    assert OutOfDeviceMemory in TorchEngine.out_of_memory


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(accelerator_error(700), "CUDA error: some words", id="lost"),
        pytest.param(torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "CUDA out of memory.", id="no room"),
        pytest.param(RuntimeError("capture failed"), "capture failed", id="anything else"),
    ],
)
def test_error_while_starting_is_one_line(error: Exception, words: str) -> None:
    """It names the device, what it was doing, and CUDA's own words."""
    with pytest.raises(StartError) as raised, starting("cuda:1", "take the model"):
        raise error

    assert f"CLIP_DEVICE: cuda:1 could not take the model: {words}" == str(raised.value)


def test_attention_is_left_to_torchs_own_kernels() -> None:
    """cuDNN's would build a plan for each new shape."""
    before = bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        without_cudnn_attention()

        assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_graphs_are_for_what_the_batcher_makes() -> None:
    """Images of the model's size, texts up to its context, batches up to the largest that is chosen."""
    settings = load_settings({"ALLOW_INSECURE_AUTH": "1"})

    captures = graphs_to_capture(settings, open_model(str(TINY_MODEL)), 20)

    assert captures is not None
    assert (224, 77, 20) == (captures.size_px, captures.context_length, captures.max_batch)


def test_graphs_can_be_turned_off() -> None:
    """For a driver that does not like them, and for a start that is seconds shorter."""
    settings = load_settings({"ALLOW_INSECURE_AUTH": "1", "CLIP_CUDA_GRAPHS": "0"})

    assert None is graphs_to_capture(settings, open_model(str(TINY_MODEL)), 20)
