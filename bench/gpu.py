"""`make bench-gpu`: how much of one CUDA device the image tower uses, how fast one image is, and how exact.

Writes bench/results/gpu.json. Ends with one line where there is no CUDA device.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bench.arithmetic import image_flop, relative_error
from bench.engine import load
from bench.figures import Check, Percentiles, Report, Row
from bench.machine import about
from bench.pipeline import images_per_s
from bench.table import checklist, table
from bench.timing import call_times_ms
from bench.workload import RESULTS, full_size_model, pictures
from core.clip.artifact import ModelDirectory
from core.clip.cuda import why_no_device
from core.clip.engine import Engine, Pixels, Vectors
from core.clip.towers import Towers
from core.clip.weights import read_weights
from core.images.decoding.pixels import PixelDecoder
from core.process import cpu
from core.settings import ServiceSettings

GPU = "gpu"
_TOWER_BATCHES = (256, 1024)
_MATRIX_SIDE = 8192
_SINGLE_CALLS = 500
_PARITY_IMAGES = 32
# The largest batch with a captured graph; what the service itself takes at once is MAX_DEVICE_BATCH.
_MAX_DEVICE_BATCH = 256

MATRIX_RATE = "float16 matrix product, 8192 x 8192"
SINGLE = "single image in engine: p50"
PARITY = "float16 error, relative to spread"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One of the service's engines, still to be prepared by the thread that uses it, and a decoder for it."""

    settings: ServiceSettings
    directory: ModelDirectory
    engine: Engine
    decoder: PixelDecoder


def main() -> None:
    """Measure, print one table and write bench/results/gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--model", help="a model directory or hub id; a full-size one with random weights if not given")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"bench-gpu needs a CUDA device: {why_no_device()}")
    loaded = load_for("cuda:0", options.model or str(full_size_model()))
    rows = measure(loaded, "cuda:0", "float16", options.seconds)
    settings = {"seconds": options.seconds, "gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}
    report = Report(about(settings), rows, checks({row.what: row.value for row in rows}))
    print(f"{settings['gpu']}, CUDA {settings['cuda']}, torch {torch.__version__}\n")
    print(table(report.rows), "\n")
    print(checklist(report.checks))
    report.write(RESULTS / "gpu.json")


def load_for(device: str, model: str) -> Loaded:
    """Load as the service does, for one device."""
    cpu.limit_library_threads(cpu.available_cores())
    settings = ServiceSettings(clip_model=model, clip_device=device, max_device_batch=_MAX_DEVICE_BATCH)
    directory, [engine, *_] = load(settings)
    return Loaded(settings, directory, engine, PixelDecoder(directory.size_px, settings.max_image_pixels))


def measure(loaded: Loaded, device: str, dtype: str, seconds: float) -> tuple[Row, ...]:
    """All rows. Device and dtype are arguments so that a CPU can go through every line of it."""
    threads = torch.get_num_threads()
    loaded.engine.prepare_thread()
    matrix_rate = matrix_flop_per_s(device, getattr(torch, dtype), _MATRIX_SIDE, seconds)
    exact = Towers.of(loaded.directory, read_weights(loaded.directory))
    tower = exact.on(device, dtype).images
    rows = [Row(GPU, MATRIX_RATE, matrix_rate / 1e12, "TFLOP/s")]
    for batch in _TOWER_BATCHES:
        rate = tower_images_per_s(tower, device, batch, loaded.directory.size_px, seconds)
        rows += [
            Row(GPU, f"image tower, batch {batch}", rate, "images/s"),
            Row(GPU, share_name(batch), 100 * rate * _image_flop(loaded.directory) / matrix_rate, "%"),
            Row(GPU, f"engine with transfers, batch {batch}", _engine_rate(loaded, batch, seconds), "images/s"),
        ]
    rows += _single_rows(loaded)
    # What it is compared with is computed on the CPU.
    torch.set_num_threads(threads)
    jpegs = pictures("1080p")
    return (
        *rows,
        _parity_row(loaded, exact.images, jpegs),
        *_pipeline_rows(loaded, jpegs, seconds),
    )


def _image_flop(directory: ModelDirectory) -> float:
    config = json.loads((directory.path / "config.json").read_bytes())
    return image_flop(config["vision_config"], directory.dim)


def _single_rows(loaded: Loaded) -> tuple[Row, ...]:
    one = _noise(1, loaded.directory.size_px)
    times = Percentiles.of(call_times_ms(lambda: loaded.engine.encode_images(one), _SINGLE_CALLS))
    return Row(GPU, SINGLE, times.p50, "ms"), Row(GPU, "single image in engine: p99", times.p99, "ms")


def _pipeline_rows(loaded: Loaded, jpegs: list[bytes], seconds: float) -> tuple[Row, ...]:
    cores = cpu.available_cores()
    # Engines of their own: they are prepared by the batcher's threads.
    _, engines = load(loaded.settings)
    per_s = images_per_s(loaded.settings, engines, loaded.decoder, jpegs, seconds)
    return (
        Row(GPU, f"1080p JPEG bytes to vectors, {cores} cores", per_s, "images/s"),
        Row(GPU, "1080p JPEG bytes to vectors, per CPU core", per_s / cores, "images/s"),
    )


def matrix_flop_per_s(device: str, dtype: torch.dtype, side: int, seconds: float) -> float:
    """The rate that large square matrix products of this type reach: the denominator of all shares."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2.0 * side**3 * device_calls_per_s(lambda: left @ right, device, seconds)


def tower_images_per_s(tower: torch.nn.Module, device: str, batch: int, size_px: int, seconds: float) -> float:
    """The rate of the tower alone: its input is on the device, its output stays there."""
    pixels = torch.from_numpy(_noise(batch, size_px)).to(device)
    with torch.inference_mode():
        return batch * device_calls_per_s(lambda: tower(pixels), device, seconds)


def device_calls_per_s(call: Callable[[], object], device: str, seconds: float) -> float:
    """Enqueue calls and wait for them in groups: a wait after each would time the launch, not the device."""
    group = 8
    wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    call()
    wait()
    calls, started_s = 0, time.perf_counter()
    while not calls or time.perf_counter() - started_s < seconds:
        for _ in range(group):
            call()
        wait()
        calls += group
    return calls / (time.perf_counter() - started_s)


def share_name(batch: int) -> str:
    return f"image tower, batch {batch}: of the matrix rate"


def checks(values: Mapping[str, float]) -> tuple[Check, ...]:
    """The goals for a GPU, of values by the names of their rows."""
    shares = [(batch, values[share_name(batch)]) for batch in _TOWER_BATCHES]
    return (
        *(Check(f"batch {batch}: 40% of the matrix rate", f"{share:.1f}%", share >= 40) for batch, share in shares),
        Check("single image under 3 ms in engine, p50", f"{values[SINGLE]:.2f} ms", values[SINGLE] < 3),
        Check("parity with float32 at most 0.5% of spread", f"{values[PARITY]:.3f}%", values[PARITY] <= 0.5),
    )


def _engine_rate(loaded: Loaded, batch: int, seconds: float) -> float:
    pixels = _noise(batch, loaded.directory.size_px)
    return batch * device_calls_per_s(lambda: loaded.engine.encode_images(pixels), loaded.engine.device, seconds)


def _parity_row(loaded: Loaded, tower: torch.nn.Module, jpegs: list[bytes]) -> Row:
    """The engine against `tower` in float32 on the CPU, over different crops of natural pictures."""
    base = np.stack([loaded.decoder.decode(data) for data in jpegs])
    pixels = np.concatenate([np.roll(base, shift, axis=3) for shift in range(0, 8 * _PARITY_IMAGES // len(jpegs), 8)])
    with torch.inference_mode():
        expected: Vectors = tower(torch.from_numpy(pixels)).numpy()
    return Row(GPU, PARITY, 100 * relative_error(expected, loaded.engine.encode_images(pixels)), "%")


def _noise(batch: int, size_px: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (batch, 3, size_px, size_px), dtype=np.uint8)


if __name__ == "__main__":
    main()
