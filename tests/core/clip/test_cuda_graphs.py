"""Which graph a batch takes, everywhere; that graphs compute what the model computes, where there is a GPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.clip.artifact import ModelDirectory
from core.clip.cuda_graphs import batch_sizes_up_to, next_size
from core.clip.torch_engine import CudaEngine, TorchEngine, widened
from core.clip.towers import Towers
from core.clip.weights import read_weights


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [
        pytest.param(1, (1,), id="one"),
        pytest.param(32, (1, 2, 4, 8, 16, 32), id="a power of two"),
        pytest.param(20, (1, 2, 4, 8, 16, 20), id="between two powers"),
    ],
)
def test_sizes_end_at_the_largest_batch(max_batch: int, sizes: tuple[int, ...]) -> None:
    """The largest batch has a graph of exactly its own size."""
    assert sizes == batch_sizes_up_to(max_batch)


@given(max_batch=st.integers(1, 300), data=st.data())
def test_every_batch_finds_the_smallest_size_that_holds_it(max_batch: int, data: st.DataObject) -> None:
    """No batch up to the maximum goes without a graph, and none takes a larger one than it needs."""
    count = data.draw(st.integers(1, max_batch))
    sizes = batch_sizes_up_to(max_batch)

    assert min(size for size in sizes if size >= count) == next_size(sizes, count)
    assert None is next_size(sizes, max_batch + 1)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        pytest.param(8, 8, id="has graphs"),
        pytest.param(12, 16, id="the next"),
        pytest.param(48, 48, id="none is wider"),
    ],
)
def test_texts_are_widened_with_their_own_end(width: int, expected: int) -> None:
    """Columns are added up to a width that has graphs, and hold the end token that each row ends with."""
    token_ids = np.tile(np.arange(width), (3, 1))

    wide = widened(token_ids)

    assert token_ids.tolist() == wide[:, :width].tolist()
    assert [[width - 1] * (expected - width)] * 3 == wide[:, width:].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_graphs_give_the_vectors_of_the_model(directory: ModelDirectory, count: int) -> None:
    """Padded and replayed, or eager because it is too large for a graph: float16 is within its tolerance of float32."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 3, directory.size_px, directory.size_px), dtype=np.uint8)
    towers = Towers.of(directory, read_weights(directory))
    exact = TorchEngine(towers, device="cpu", dtype="float32")
    placed = towers.on("cuda", "float16")
    graphed = CudaEngine(placed, device="cuda", dtype="float16", size_px=directory.size_px, max_batch=8)

    graphed.encode_images(rng.permutation(pixels))
    expected, actual = exact.encode_images(pixels), graphed.encode_images(pixels)

    assert 0.01 > np.linalg.norm(expected - actual, axis=1).max() / np.linalg.norm(expected, axis=1).mean()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_streams_share_the_weights_and_nothing_else(directory: ModelDirectory) -> None:
    """Two engines of one device at work at the same time give what each gives alone."""
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (8, 3, directory.size_px, directory.size_px), dtype=np.uint8) for _ in range(2)]
    placed = Towers.of(directory, read_weights(directory)).on("cuda", "float16")
    engines = [
        CudaEngine(placed, device="cuda", dtype="float16", size_px=directory.size_px, max_batch=8) for _ in batches
    ]
    alone = [engine.encode_images(batch) for engine, batch in zip(engines, batches, strict=True)]

    with ThreadPoolExecutor(2) as threads:
        for _ in range(50):
            together = list(threads.map(CudaEngine.encode_images, engines, batches))

            np.testing.assert_array_equal(np.stack(alone), np.stack(together))
