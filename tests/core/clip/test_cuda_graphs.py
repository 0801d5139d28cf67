"""Which graph a batch takes, and what is padded for it: plain functions, on any machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clip.artifact import open_model
from core.clip.cuda_graphs import batch_sizes_up_to, next_size, token_widths_up_to, widened
from core.clip.tokenizer import ClipTokenizer
from tools.testbed.process import TINY_MODEL


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
    ("context_length", "widths"),
    [
        pytest.param(77, (8, 16, 24, 32, 48, 77), id="CLIP"),
        pytest.param(32, (8, 16, 24, 32), id="a shorter context"),
        pytest.param(20, (8, 16, 20), id="between two widths"),
    ],
)
def test_widths_end_at_the_context(context_length: int, widths: tuple[int, ...]) -> None:
    """A graph that is wider than the model's positions could not be captured."""
    assert widths == token_widths_up_to(context_length)


def test_every_padded_text_finds_graphs() -> None:
    """Whatever the tokenizer pads to, long texts too, and of a width that adds less than half."""
    model = open_model(str(TINY_MODEL))
    tokenizer = ClipTokenizer(model.tokenizer_path, model.context_length)
    widths = {tokenizer.width(tokens) for tokens in range(1, model.context_length + 1)}

    graphed = {width: next_size(token_widths_up_to(model.context_length), width) for width in widths}

    assert {} == {width: wide for width, wide in graphed.items() if wide is None or not width <= wide < 1.5 * width}


@pytest.mark.parametrize(
    ("width", "widths", "expected"),
    [
        pytest.param(8, (8, 16), 8, id="has graphs"),
        pytest.param(12, (8, 16), 16, id="the next"),
        pytest.param(48, (8, 16), 48, id="none is wider"),
        pytest.param(12, (), 12, id="no graphs"),
    ],
)
def test_texts_are_widened_with_their_own_end(width: int, widths: tuple[int, ...], expected: int) -> None:
    """Columns are added up to a width that has graphs, and hold the end token that each row ends with."""
    token_ids = np.tile(np.arange(width), (3, 1))

    wide = widened(token_ids, widths)

    assert token_ids.tolist() == wide[:, :width].tolist()
    assert [[width - 1] * (expected - width)] * 3 == wide[:, width:].tolist()
