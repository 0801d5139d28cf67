"""One CUDA device without a network: both towers at many batches, with and without graphs, both streams, parity."""

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from bench.arithmetic import image_flop, relative_error
from bench.engine import load
from bench.figures import Check, Percentiles, Row
from bench.pipeline import images_per_s
from bench.timing import Rates, call_times_ms, rates
from bench.workload import pictures
from core.clip.artifact import ModelDirectory
from core.clip.engine import Engine, Pixels, TokenIds, Vectors
from core.clip.tokenizer import ClipTokenizer
from core.clip.towers import Towers
from core.clip.weights import read_weights
from core.images.decoding.pixels import PixelDecoder
from core.process import cpu
from core.settings import ServiceSettings

TOWER, ENGINE, BOTH, DECODES = "tower alone", "engine", "both streams", "in process"
_MATRIX_SIDE = 8192
_PARITY_IMAGES = 32
# A wait after each call would time the launch, not the device.
_CALLS_PER_WAIT = 8

MATRIX_RATE = "float16 matrix product, 8192 x 8192"
SINGLE = "one image: p50"
PARITY = "float16 error of images, relative to spread"


@dataclass(frozen=True, slots=True)
class Shapes:
    """What is gone through. `max_batch` is the largest with a graph; a tower is also measured beyond it."""

    image_batches: Sequence[int] = (1, 4, 16, 32, 64, 128, 256, 1024)
    text_batches: Sequence[int] = (1, 16, 256)
    token_widths: Sequence[int] = (8, 16, 32, 77)
    both_streams: Sequence[int] = (32, 64, 256)
    max_batch: int = 256
    single_calls: int = 500
    pictures: str = "1080p"


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured, and for how long: `rounds` times `seconds`, of which the median and the range are given."""

    model: str
    device: str
    dtype: str
    seconds: float
    rounds: int
    shapes: Shapes

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def settings(self, *, graphs: bool) -> ServiceSettings:
        return ServiceSettings(
            clip_model=self.model,
            clip_device=self.device,
            clip_engine="torch",
            max_device_batch=self.shapes.max_batch,
            clip_cuda_graphs=graphs,
        )

    def rates(self, call: Callable[[], object]) -> Rates:
        wait: Callable[[], None] = torch.cuda.synchronize if self.cuda else lambda: None
        return rates(call, seconds=self.seconds, rounds=self.rounds, calls_per_wait=_CALLS_PER_WAIT, wait=wait)


def measure(setup: Setup) -> Iterator[Row]:
    """All rows. Call it in a process of its own: it sets torch's threads, and takes the device's memory."""
    threads = torch.get_num_threads()
    matrix_rate = yield from _matrix_rows(setup)
    yield from _engine_rows(setup, graphs=False)
    directory, engine = yield from _engine_rows(setup, graphs=True)
    yield from _single_rows(setup, directory, engine)
    exact = Towers.of(directory, read_weights(directory))
    yield from _tower_rows(setup, directory, exact.on(setup.device, setup.dtype).images, matrix_rate)
    # What it is compared with is computed on the CPU.
    torch.set_num_threads(threads)
    decoder = PixelDecoder(directory.size_px, setup.settings(graphs=True).max_image_pixels)
    jpegs = pictures(setup.shapes.pictures)
    yield from _parity_rows(exact, directory, engine, decoder, jpegs)
    # Their engines are prepared by other threads, and one engine's memory is enough.
    del engine, exact
    yield from _both_streams_rows(setup, directory)
    yield from _pipeline_rows(setup, decoder, jpegs)


def _matrix_rows(setup: Setup) -> Generator[Row, None, float]:
    """The rate that large square matrix products of this type reach: the denominator of all shares."""
    side = _MATRIX_SIDE if setup.cuda else _MATRIX_SIDE // 16
    left, right = (torch.randn(side, side, device=setup.device).to(getattr(torch, setup.dtype)) for _ in range(2))
    measured = setup.rates(lambda: left @ right).times(2.0 * side**3)
    yield measured.times(1e-12).row(TOWER, MATRIX_RATE, "TFLOP/s")
    return measured.median


def _tower_rows(setup: Setup, directory: ModelDirectory, tower: torch.nn.Module, matrix_rate: float) -> Iterator[Row]:
    """Its input is on the device, its output stays there; no graph."""
    config = json.loads((directory.path / "config.json").read_bytes())
    flop = image_flop(config["vision_config"], directory.dim)
    for batch in setup.shapes.image_batches:
        pixels = torch.from_numpy(noise(batch, directory.size_px)).to(setup.device)
        with torch.inference_mode():
            measured = setup.rates(partial(tower, pixels)).times(batch)
        yield measured.row(TOWER, f"images, batch {batch}", "images/s")
        yield Row(TOWER, share_name(batch), 100 * measured.median * flop / matrix_rate, "%")


def _engine_rows(setup: Setup, *, graphs: bool) -> Generator[Row, None, tuple[ModelDirectory, Engine]]:
    """The service's engine with its transfers, one stream, as its device thread calls it."""
    how = "graphs" if graphs else "no graphs"
    cpu.limit_library_threads(cpu.available_cores())
    started_s = time.perf_counter()
    model = load(setup.settings(graphs=graphs))
    directory, engine = model.directory, model.engines[0]
    loaded_s = time.perf_counter()
    engine.prepare_thread()
    yield Row(ENGINE, f"{how}: load the model", loaded_s - started_s, "s")
    yield Row(ENGINE, f"{how}: prepare the thread", time.perf_counter() - loaded_s, "s")
    for batch in setup.shapes.image_batches:
        pixels = noise(batch, directory.size_px)
        measured = setup.rates(partial(engine.encode_images, pixels)).times(batch)
        yield measured.row(ENGINE, f"{how}: images, batch {batch}", "images/s")
    for width in setup.shapes.token_widths:
        for batch in setup.shapes.text_batches:
            measured = setup.rates(partial(engine.encode_texts, token_ids(directory, batch, width))).times(batch)
            yield measured.row(ENGINE, f"{how}: texts of {width} tokens, batch {batch}", "texts/s")
    if setup.cuda:
        yield Row(ENGINE, f"{how}: memory reserved by torch", torch.cuda.memory_reserved() / 2**20, "MiB")
    return directory, engine


def _single_rows(setup: Setup, directory: ModelDirectory, engine: Engine) -> Iterator[Row]:
    """One at a time, waited for: what somebody who searches waits for."""
    calls = setup.shapes.single_calls
    image, text = noise(1, directory.size_px), token_ids(directory, 1, 16)
    times = Percentiles.of(call_times_ms(lambda: engine.encode_images(image), calls))
    yield Row(ENGINE, SINGLE, times.p50, "ms")
    yield Row(ENGINE, "one image: p99", times.p99, "ms")
    times = Percentiles.of(call_times_ms(lambda: engine.encode_texts(text), calls))
    yield Row(ENGINE, "one text of 16 tokens: p50", times.p50, "ms")
    yield Row(ENGINE, "one text of 16 tokens: p99", times.p99, "ms")


def _parity_rows(
    exact: Towers, directory: ModelDirectory, engine: Engine, decoder: PixelDecoder, jpegs: Sequence[bytes]
) -> Iterator[Row]:
    """The engine against the same weights in float32 on the CPU: crops of natural pictures, texts of all widths."""
    base = np.stack([decoder.decode(data) for data in jpegs])
    pixels = np.concatenate([np.roll(base, shift, axis=3) for shift in range(0, 8 * _PARITY_IMAGES // len(jpegs), 8)])
    texts = token_ids(directory, _PARITY_IMAGES, directory.context_length)
    with torch.inference_mode():
        images: Vectors = exact.images(torch.from_numpy(pixels)).numpy()
        written: Vectors = exact.texts(torch.from_numpy(texts)).numpy()
    yield Row(ENGINE, PARITY, 100 * relative_error(images, engine.encode_images(pixels)), "%")
    error = 100 * relative_error(written, engine.encode_texts(texts))
    yield Row(ENGINE, "float16 error of texts, relative to spread", error, "%")


def _both_streams_rows(setup: Setup, directory: ModelDirectory) -> Iterator[Row]:
    """All engines of the device at once, each on a thread of its own: as the service uses them."""
    engines = load(setup.settings(graphs=True)).engines
    with ThreadPoolExecutor(len(engines)) as threads:
        list(threads.map(lambda engine: engine.prepare_thread(), engines))
        for batch in setup.shapes.both_streams:
            pixels = noise(batch, directory.size_px)

            def all_at_once(pixels: Pixels = pixels) -> None:
                running = [threads.submit(engine.encode_images, pixels) for engine in engines for _ in range(4)]
                for done in running:
                    done.result()

            measured = setup.rates(all_at_once).times(4 * batch * len(engines))
            yield measured.row(BOTH, f"{len(engines)} engines: images, batch {batch}", "images/s")


def _pipeline_rows(setup: Setup, decoder: PixelDecoder, jpegs: Sequence[bytes]) -> Iterator[Row]:
    cores = cpu.available_cores()
    settings = setup.settings(graphs=True)
    per_s = images_per_s(settings, load(settings), decoder, jpegs, setup.seconds * setup.rounds)
    yield Row(DECODES, f"{setup.shapes.pictures} JPEG bytes to vectors, threads of {cores} cores", per_s, "images/s")


def share_name(batch: int) -> str:
    return f"images, batch {batch}: of the matrix rate"


def checks(rows: Sequence[Row]) -> tuple[Check, ...]:
    """The goals for a GPU; of those whose rows were measured."""
    values: Mapping[str, float] = {row.what: row.value for row in rows}
    goals: Sequence[tuple[str, str, str, Callable[[float], bool]]] = (
        *(
            (share_name(batch), f"batch {batch}: 40% of the matrix rate", "%", lambda v: v >= 40)
            for batch in (256, 1024)
        ),
        (SINGLE, "single image under 3 ms in engine, p50", "ms", lambda value: value < 3),
        (PARITY, "parity with float32 at most 0.5% of spread", "%", lambda value: value <= 0.5),
    )
    return tuple(
        Check(goal, f"{values[what]:.3g} {unit}", is_met(values[what]))
        for what, goal, unit, is_met in goals
        if what in values
    )


def noise(batch: int, size_px: int) -> Pixels:
    """Model pixels that nothing compresses; never zeros, which some devices multiply faster."""
    return np.random.default_rng(0).integers(0, 256, (batch, 3, size_px, size_px), dtype=np.uint8)


def token_ids(directory: ModelDirectory, batch: int, width: int) -> TokenIds:
    """Texts as long as `width`: start, words, end."""
    start, end = (int(token) for token in ClipTokenizer.of(directory).encode("")[0])
    ids = np.random.default_rng(width).integers(1, min(start, end), (batch, width), dtype=np.int64)
    ids[:, 0], ids[:, -1] = start, end
    return ids


def small() -> Shapes:
    """For a run that only shows that every line works."""
    return replace(
        Shapes(), image_batches=(1, 4), text_batches=(1,), token_widths=(8,), both_streams=(4,), max_batch=4,
        single_calls=5,
    )  # fmt: skip
