"""CLIP through torch: float16 on CUDA; bfloat16 or float32 on a CPU, by its flags."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from core.clip.cuda_graphs import (
    Captures,
    GraphedTower,
    batch_sizes_up_to,
    page_locked,
    token_widths_up_to,
    widened,
)
from core.clip.engine import EngineBroken, OutOfDeviceMemory, Pixels, TokenIds, Vectors
from core.clip.towers import Towers
from core.errors import StartError
from core.process import cpu
from core.process.garbage import collected_before

Tower = Callable[[npt.NDArray[Any]], torch.Tensor]

# cudaErrorMemoryAllocation: page-locked memory, a graph or a library's handle found no room. All else that CUDA itself
# reports leaves the context unusable, or leaves nobody able to tell.
_CUDA_OUT_OF_MEMORY = 2
# cuBLAS reports in words alone.
_CUBLAS_OUT_OF_MEMORY = "CUBLAS_STATUS_ALLOC_FAILED"


class TorchEngine:
    """Runs `towers`, which are on `device` in `dtype` already. Several engines may share them."""

    name = "torch"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError, OutOfDeviceMemory)

    def __init__(self, towers: Towers, *, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = dtype
        self._images: Tower = _eager(towers.images)
        self._texts: Tower = _eager(towers.texts)

    def prepare_thread(self) -> None:
        """All cores: where threads that resize use torch too, each has told it to keep to one."""
        torch.set_num_threads(cpu.available_cores())

    def encode_images(self, pixels: Pixels) -> Vectors:
        """See `Engine.encode_images`. Raises `EngineBroken` when the device is lost, and `OutOfDeviceMemory`."""
        return self._run(self._images, pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`. Raises `EngineBroken` when the device is lost, and `OutOfDeviceMemory`."""
        return self._run(self._texts, token_ids)

    def _run(self, tower: Tower, batch: Pixels | TokenIds) -> Vectors:
        # Entered here and not around the thread: inference mode belongs to the thread that calls.
        with device_errors(), torch.inference_mode():
            rows: Vectors = tower(batch).float().numpy()
        return np.ascontiguousarray(rows)


class CudaEngine(TorchEngine):
    """A `TorchEngine` with a stream of its own, so that beside another one copies and work overlap.

    `captures` says which CUDA graphs to make, None for none.
    """

    def __init__(self, towers: Towers, *, device: str, dtype: str, captures: Captures | None) -> None:
        super().__init__(towers, device=device, dtype=dtype)
        self._captures = captures
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Waits asleep: without `blocking`, CUDA's waiting keeps a core busy that could decode an image.
        self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._image_graphs = GraphedTower(_in_float32(towers.images), self._stream)
        self._text_graphs = GraphedTower(_in_float32(towers.texts), self._stream)
        self._widths: Sequence[int] = ()
        self._images, self._texts = self._image_graphs, self._text_graphs

    def prepare_thread(self) -> None:
        """Capture the graphs, on the thread that will replay them. Raises `StartError`."""
        # What torch would do on the CPU is done by numpy: its other threads would only take turns with the decoders.
        torch.set_num_threads(1)
        # Of this thread: what is not told a device would else make a context on the first one too.
        torch.cuda.set_device(self._stream.device)
        if self._captures is None:
            return
        with self._captures.turn, starting(self.device, "capture CUDA graphs (CLIP_CUDA_GRAPHS=0 does without)"):
            self._capture(self._captures)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """See `Engine.encode_texts`. Raises as `TorchEngine.encode_texts`."""
        return super().encode_texts(widened(token_ids, self._widths))

    def _capture(self, captures: Captures) -> None:
        sizes, widths = batch_sizes_up_to(captures.max_batch), token_widths_up_to(captures.context_length)
        # A graph that is given up during a capture invalidates it, and the collector may find one at any allocation.
        with collected_before(), torch.inference_mode(), torch.cuda.stream(self._stream):
            self._image_graphs.capture((3, captures.size_px, captures.size_px), np.dtype(np.uint8), sizes)
            for width in widths:
                self._text_graphs.capture((width,), np.dtype(np.int64), sizes)
            self._stream.synchronize()
        self._widths = widths

    def _run(self, tower: Tower, batch: Pixels | TokenIds) -> Vectors:
        with device_errors(), torch.inference_mode(), torch.cuda.stream(self._stream):
            vectors = tower(batch)
            rows, host = page_locked(vectors.shape, np.dtype(np.float32))
            rows.copy_(vectors, non_blocking=True)
            self._done.record(self._stream)
            self._done.synchronize()
            # A copy: page-locked memory is needed for the next batch, and vectors live as long as their requests.
            copied: Vectors = host.copy()
        return copied


def without_cudnn_attention() -> None:
    """Leave attention to torch's own kernels, in all of this process.

    On Hopper and newer torch prefers cuDNN's, which builds a plan for every new shape: seconds at the start, and a
    stalled device whenever a batch has a shape that none had before.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def starting(device: str, what: str) -> Iterator[None]:
    """Turn what the device reports while it is made ready into a `StartError` of one line."""
    try:
        with device_errors():
            yield
    except (EngineBroken, OutOfDeviceMemory, RuntimeError) as error:
        raise StartError(f"CLIP_DEVICE: {device} could not {what}: {_first_line(error.__cause__ or error)}") from error


@contextmanager
def device_errors() -> Iterator[None]:
    """Turn what CUDA reports into `OutOfDeviceMemory` or `EngineBroken`; the outermost of all that touches the device.

    What is neither, such as a shape that does not fit, stays as it is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemory("no room for this batch") from error
    except torch.AcceleratorError as error:
        if getattr(error, "error_code", None) == _CUDA_OUT_OF_MEMORY:
            raise OutOfDeviceMemory("no room beside this batch") from error
        raise EngineBroken("the accelerator reported an error that this process cannot recover from") from error
    except RuntimeError as error:
        if _CUBLAS_OUT_OF_MEMORY in str(error):
            raise OutOfDeviceMemory("no room for cuBLAS") from error
        raise


def _eager(tower: torch.nn.Module) -> Tower:
    return lambda batch: cast("torch.Tensor", tower(torch.from_numpy(batch)))


def _in_float32(tower: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """On the device: a copy that also converts would not be asynchronous."""
    return lambda batch: cast("torch.Tensor", tower(batch)).float()


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
