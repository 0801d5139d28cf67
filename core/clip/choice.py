"""Which engine, on which devices, in which numeric type and batches: settings and the machine decide."""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from core.clip.artifact import ModelDirectory
from core.clip.cuda import usable_devices, why_no_device
from core.clip.engine import Engine
from core.clip.graph_files import IMAGES, INT8, GraphFiles
from core.clip.manifest import Int8Report
from core.clip.weights import Weights
from core.errors import StartError
from core.process import cpu
from core.settings import ServiceSettings

if TYPE_CHECKING:
    from core.clip.cuda_graphs import Captures
    from core.clip.towers import Towers

logger = logging.getLogger(__name__)

# While one batch runs on a GPU, the next is stacked and copied there, and the last one's vectors are handed out.
_STREAMS_PER_GPU = 2

# A large card does 1.2 times as many images a second with 64 in a pass (bench/results/gpu.md, both streams of an H200)
# and another 1.1 times with 256, of which each waits longer. Smaller cards were not measured.
_MAX_BATCH = 32
_MAX_BATCH_OF_A_LARGE_GPU = 64
_LARGE_GPU_BYTES = 40_000_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    """The name of an engine, the devices it runs on, and how many items a forward pass may have there."""

    engine: str
    devices: Sequence[str]
    max_batch: int

    @classmethod
    def of(cls, settings: ServiceSettings) -> "Choice":
        """Raises `StartError` for settings that this machine cannot meet."""
        devices = choose_devices(settings.clip_device)
        max_batch = choose_max_batch(settings.max_device_batch, memory_bytes(devices))
        return cls(choose_engine(settings.clip_engine, devices), devices, max_batch)


def import_engine(choice: Choice) -> None:
    """Import the engine's library, the longest import of a start, ahead of `load_engines`."""
    importlib.import_module(f"core.clip.{choice.engine}_engine")


def load_engines(
    settings: ServiceSettings,
    directory: ModelDirectory,
    *,
    choice: Choice,
    read: Callable[[], Weights],
    identify: Callable[[], str],
) -> list[Engine]:
    """Return one engine for a CPU, and several per GPU, which share its weights.

    `read` gives the weights and `identify` the fingerprint; neither is asked unless it is needed.
    Raises `StartError` for weights that are no whole CLIP, and whatever those two raise.
    """
    if choice.engine == "openvino":
        return [_openvino(settings, directory, read, identify)]
    return _torch(settings, directory, read(), choice)


def choose_engine(setting: str, devices: list[str]) -> str:
    """Turn CLIP_ENGINE into an engine's name: `auto` is OpenVINO on a CPU where it is installed, else torch."""
    installed = importlib.util.find_spec("openvino") is not None
    on_cpu = devices == ["cpu"]
    if setting == "openvino" and not (installed and on_cpu):
        raise StartError("CLIP_ENGINE: openvino needs the package openvino and CLIP_DEVICE=cpu; use auto or torch")
    if setting == "auto":
        return "openvino" if installed and on_cpu else "torch"
    return setting


def choose_devices(
    setting: str, count_cuda: Callable[[], int] = usable_devices, why_none: Callable[[], str] = why_no_device
) -> list[str]:
    """Turn CLIP_DEVICE into device names: `auto` is every CUDA device, else the CPU.

    Raises `StartError` for a device that is not here; where CUDA was asked for and there is none, it says why.
    """
    if setting == "cpu":
        return ["cpu"]
    count = count_cuda()
    if setting == "auto" and count == 0:
        return ["cpu"]
    every = [f"cuda:{index}" for index in range(count)]
    if setting in ("auto", "cuda") and every:
        return ["cuda"] if count == 1 else every
    if setting in every:
        return [setting]
    if count == 0 and setting.partition(":")[0] == "cuda":
        raise StartError(f"CLIP_DEVICE: {setting} is not here: {why_none()}")
    raise StartError(f"CLIP_DEVICE: {setting} is not here: expected auto, cpu, or one of {count} CUDA devices")


def choose_dtype(setting: str, device: str) -> str:
    """Turn CLIP_DTYPE into a dtype name for `device`. Raises `StartError` for one that its engine cannot compute in."""
    if setting == "float16" and device == "cpu":
        raise StartError("CLIP_DTYPE: float16 is for CUDA; on a CPU use auto, float32, bfloat16 or int8")
    if setting == INT8:
        raise StartError("CLIP_DTYPE: int8 is for CPUs and CLIP_ENGINE=openvino; elsewhere use auto")
    if setting != "auto":
        return setting
    return "float16" if device != "cpu" else cpu.fastest_float()


def choose_max_batch(setting: Literal["auto"] | int, device_bytes: Sequence[int]) -> int:
    """Turn MAX_DEVICE_BATCH into items: `device_bytes` is the memory of each GPU, empty on a CPU.

    One for all devices, as they take from one queue: the smallest of them decides.
    """
    if setting != "auto":
        return setting
    large = bool(device_bytes) and min(device_bytes) >= _LARGE_GPU_BYTES
    return _MAX_BATCH_OF_A_LARGE_GPU if large else _MAX_BATCH


def memory_bytes(devices: Sequence[str]) -> list[int]:
    """Of each GPU among `devices`, as `choose_devices` gives them; a CPU has none of its own."""
    if devices == ["cpu"]:
        return []
    import torch

    return [torch.cuda.get_device_properties(device).total_memory for device in devices]


def graphs_to_capture(settings: ServiceSettings, directory: ModelDirectory, max_batch: int) -> "Captures | None":
    """Return what CLIP_CUDA_GRAPHS asks for: graphs for every shape that the batcher makes, or none."""
    from core.clip.cuda_graphs import Captures

    if not settings.clip_cuda_graphs:
        return None
    return Captures(directory.size_px, directory.context_length, max_batch)


def _torch(settings: ServiceSettings, directory: ModelDirectory, weights: Weights, choice: Choice) -> list[Engine]:
    from core.clip.torch_engine import TorchEngine
    from core.clip.towers import Towers

    towers = Towers.of(directory, weights)
    if choice.devices != ["cpu"]:
        return _on_cuda(settings, directory, towers, choice)
    dtype = choose_dtype(settings.clip_dtype, "cpu")
    return [TorchEngine(towers.on("cpu", dtype), device="cpu", dtype=dtype)]


def _on_cuda(settings: ServiceSettings, directory: ModelDirectory, towers: "Towers", choice: Choice) -> list[Engine]:
    from core.clip.torch_engine import CudaEngine, starting, without_cudnn_attention

    without_cudnn_attention()
    captures, engines = graphs_to_capture(settings, directory, choice.max_batch), list[Engine]()
    for device in choice.devices:
        dtype = choose_dtype(settings.clip_dtype, device)
        with starting(device, "take the model"):
            placed = towers.on(device, dtype)
            for _ in range(_STREAMS_PER_GPU):
                engines.append(CudaEngine(placed, device=device, dtype=dtype, captures=captures))
    return engines


def _openvino(
    settings: ServiceSettings, directory: ModelDirectory, read: Callable[[], Weights], identify: Callable[[], str]
) -> Engine:
    from core.clip.openvino_engine import OpenVinoEngine

    files = GraphFiles.of(directory.path, settings.cache_folder, identify())
    try:
        if not files.exported:
            _export(directory, read, files)
        _make_folder(files)
        dtype = _openvino_dtype(settings.clip_dtype, files, directory.int8)
        engine = partial(OpenVinoEngine, files, dtype=dtype, threads=cpu.available_cores())
        try:
            return engine()
        except RuntimeError:
            if not files.kept:
                raise
            # Cut off by a full volume, or by a machine that went down: every later start would fail, too.
            logger.warning("the kept graphs cannot be read", exc_info=True, extra={"folder": str(files.graphs)})
            _export(directory, read, files)
            return engine()
    except OSError as error:
        raise StartError(f"CLIP_CACHE_DIR: {files.compiled} cannot be written or read: {error.strerror}") from error


def _make_folder(files: GraphFiles) -> None:
    """Where compiled graphs are kept. Raises `OSError` where the graphs themselves must be, too."""
    try:
        files.compiled.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if files.kept:
            raise
        fields = {"folder": str(files.compiled), "cause": error.strerror}
        logger.warning("compiled graphs are not kept: CLIP_CACHE_DIR cannot be written", extra=fields)


def _export(directory: ModelDirectory, read: Callable[[], Weights], files: GraphFiles) -> None:
    from core.clip.openvino_export import export
    from core.clip.towers import Towers

    export(Towers.of(directory, read()), files.graphs, size_px=directory.size_px)


def _openvino_dtype(setting: str, files: GraphFiles, report: Int8Report | None) -> str:
    """Turn CLIP_DTYPE into a dtype name: `auto` is int8 where that was baked, gives the same vectors and is faster."""
    if files.in_int8(IMAGES) is None:
        report = None
    if setting == INT8:
        if report is None:
            raise StartError(
                "CLIP_DTYPE: int8 needs a model that was baked with --int8, for the installed version of OpenVINO:"
                " bake it, or use auto"
            )
        return INT8
    other = choose_dtype(setting, "cpu")
    if setting != "auto" or report is None or report.fingerprint != files.model_fingerprint:
        return other
    from core.clip.int8.speed import is_faster_here

    return INT8 if is_faster_here(files, other, threads=cpu.available_cores()) else other
