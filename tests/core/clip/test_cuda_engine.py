"""The CUDA engine on a real device: `pytest tests/core/clip -k cuda` where there is one, skipped elsewhere.

What these tests compare with is tried on any machine.
"""

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from core.clip.artifact import ModelDirectory
from core.clip.cuda_graphs import Captures, page_locked, token_widths_up_to, widened
from core.clip.engine import OutOfDeviceMemory, Pixels, TokenIds, Vectors
from core.clip.tokenizer import ClipTokenizer
from core.clip.torch_engine import CudaEngine, TorchEngine
from core.clip.towers import Towers
from core.clip.weights import read_weights

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

MAX_BATCH = 8
# Of float16, against the mean norm of float32's vectors.
TOLERANCE = 0.01

WITH_AND_WITHOUT_GRAPHS = pytest.mark.parametrize(
    "graphs", [pytest.param(True, id="graphs"), pytest.param(False, id="no graphs")]
)


def pixels_of(directory: ModelDirectory, count: int) -> Pixels:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 3, directory.size_px, directory.size_px), dtype=np.uint8)


def texts_of(directory: ModelDirectory, count: int, width: int) -> TokenIds:
    """Texts of different lengths, padded to `width`: the first is as long as that, the last holds nothing."""
    tokenizer = ClipTokenizer(directory.tokenizer_path, directory.context_length)
    start, end = (int(token) for token in tokenizer.encode("")[0])
    rng = np.random.default_rng(width)
    token_ids = np.full((count, width), end, dtype=np.int64)
    for row, length in zip(token_ids, np.linspace(width, 2, count).astype(int), strict=True):
        row[: length - 1] = rng.integers(1, min(start, end) - 1, length - 1)
        row[0] = start
    return token_ids


@contextmanager
def engine_on_cuda(towers: Towers, directory: ModelDirectory, *, graphs: bool = True) -> Iterator[CudaEngine]:
    """Prepared, on this thread, which is given its number of threads back."""
    threads = torch.get_num_threads()
    captures = Captures(directory.size_px, directory.context_length, MAX_BATCH) if graphs else None
    engine = CudaEngine(towers, device="cuda", dtype="float16", captures=captures)
    engine.prepare_thread()
    try:
        yield engine
    finally:
        torch.set_num_threads(threads)


def error_of(expected: Vectors, actual: Vectors) -> float:
    """The largest distance between two vectors of a row, of the mean norm."""
    return float(np.linalg.norm(expected - actual, axis=1).max() / np.linalg.norm(expected, axis=1).mean())


@pytest.fixture(scope="module")
def towers(directory: ModelDirectory) -> Towers:
    return Towers.of(directory, read_weights(directory))


@pytest.fixture(scope="module")
def placed(towers: Towers) -> Towers:
    return towers.on("cuda", "float16")


@pytest.mark.parametrize("width", [8, 12, 16, 24, 32, 48, 77])
def test_widening_changes_no_vector(directory: ModelDirectory, towers: Towers, width: int) -> None:
    """A text's vector is read at its first end token; what stands behind that is seen by nobody."""
    engine = TorchEngine(towers, device="cpu", dtype="float32")
    token_ids = texts_of(directory, 3, width)

    wide = widened(token_ids, token_widths_up_to(directory.context_length))

    assert 1e-5 > error_of(engine.encode_texts(token_ids), engine.encode_texts(wide))


@needs_cuda
@WITH_AND_WITHOUT_GRAPHS
@pytest.mark.parametrize("count", [1, 3, MAX_BATCH, MAX_BATCH + 1])
def test_images_are_those_of_the_model(
    directory: ModelDirectory, towers: Towers, placed: Towers, count: int, graphs: bool
) -> None:
    """Padded and replayed, or eager because no graph is as large: float16 is within its tolerance of float32."""
    pixels = pixels_of(directory, count)
    exact = TorchEngine(towers, device="cpu", dtype="float32")

    with engine_on_cuda(placed, directory, graphs=graphs) as engine:
        # Rows of another batch are left behind in the graph's memory.
        engine.encode_images(pixels[::-1].copy())
        actual = engine.encode_images(pixels)

    assert (count, directory.dim) == actual.shape
    assert np.float32 == actual.dtype
    assert TOLERANCE > error_of(exact.encode_images(pixels), actual)


@needs_cuda
@WITH_AND_WITHOUT_GRAPHS
@pytest.mark.parametrize("width", [8, 12, 16, 24, 32, 48, 77])
def test_texts_are_those_of_the_model(
    directory: ModelDirectory, towers: Towers, placed: Towers, width: int, graphs: bool
) -> None:
    """Of every width that the tokenizer pads to; widening one to that of a graph changes nothing."""
    exact = TorchEngine(towers, device="cpu", dtype="float32")

    with engine_on_cuda(placed, directory, graphs=graphs) as engine:
        for count in (1, 3, MAX_BATCH):
            token_ids = texts_of(directory, count, width)

            assert TOLERANCE > error_of(exact.encode_texts(token_ids), engine.encode_texts(token_ids))


@needs_cuda
def test_vectors_are_the_callers_to_keep(directory: ModelDirectory, placed: Towers) -> None:
    """The next batch does not write into those of the last."""
    first, second = pixels_of(directory, 1), pixels_of(directory, 2)

    with engine_on_cuda(placed, directory) as engine:
        kept = engine.encode_images(first)
        before = kept.copy()
        engine.encode_images(second)

    np.testing.assert_array_equal(before, kept)


@needs_cuda
def test_two_streams_share_the_weights_and_nothing_else(directory: ModelDirectory, placed: Towers) -> None:
    """Two engines of one device, each prepared and used by its own thread, give what each gives alone."""
    captures = Captures(directory.size_px, directory.context_length, MAX_BATCH)
    engines = [CudaEngine(placed, device="cuda", dtype="float16", captures=captures) for _ in range(2)]
    images = [pixels_of(directory, MAX_BATCH)[:: 1 - 2 * number].copy() for number in range(2)]
    texts = texts_of(directory, MAX_BATCH, 16)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        threads = (one, other)
        for ready in [thread.submit(engine.prepare_thread) for thread, engine in zip(threads, engines, strict=True)]:
            ready.result()

        def run(number: int, encode: Callable[[], Vectors]) -> Vectors:
            return threads[number].submit(encode).result()

        alone = [run(number, lambda n=number: engines[n].encode_images(images[n])) for number in range(2)]  # type: ignore[misc]
        alone_text = run(0, lambda: engines[0].encode_texts(texts))
        for _ in range(50):
            image = one.submit(engines[0].encode_images, images[0])
            text = other.submit(engines[1].encode_texts, texts)
            second = other.submit(engines[1].encode_images, images[1])

            np.testing.assert_array_equal(alone[0], image.result())
            np.testing.assert_array_equal(alone_text, text.result())
            np.testing.assert_array_equal(alone[1], second.result())


@needs_cuda
def test_garbage_with_graphs_is_collected_before_a_capture_and_not_in_it(
    directory: ModelDirectory, placed: Towers
) -> None:
    """A graph that the collector gives up during a capture would invalidate it."""
    gc.collect()
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(3):
            with engine_on_cuda(placed, directory) as engine:
                cycle: list[object] = [engine]
                cycle.append(cycle)
            del engine, cycle
    finally:
        gc.set_threshold(*before)


@needs_cuda
def test_batch_that_does_not_fit_is_no_lost_device(directory: ModelDirectory, placed: Towers) -> None:
    """Its error is the one that halves a batch, and the next batch is right."""
    total = torch.cuda.mem_get_info()[1]
    pixels = pixels_of(directory, 2)

    with engine_on_cuda(placed, directory) as engine:
        before = engine.encode_images(pixels)
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**20) / total)
        try:
            with pytest.raises(OutOfDeviceMemory):
                engine.encode_images(pixels_of(directory, 2048))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        after = engine.encode_images(pixels)

    np.testing.assert_array_equal(before, after)


@needs_cuda
def test_page_locked_memory_is_one_for_tensor_and_array() -> None:
    """What numpy writes is what the device copies."""
    tensor, array = page_locked((2, 3), np.dtype(np.uint8))
    array.fill(7)

    assert tensor.is_pinned()
    assert [[7] * 3] * 2 == tensor.cuda().cpu().tolist()
