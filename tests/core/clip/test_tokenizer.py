"""Token ids, truncation and padding of the bundled model's tokenizer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from core.clip.tokenizer import ClipTokenizer
from tools.testbed.process import TINY_MODEL

CONTEXT_LENGTH = 77
PATH = TINY_MODEL / "tokenizer.json"
TOKENIZER = ClipTokenizer(PATH, CONTEXT_LENGTH)
END_ID = Tokenizer.from_file(str(PATH)).get_vocab()["<|endoftext|>"]


def test_text_at_the_limit_is_whole_and_one_token_more_is_cut() -> None:
    """75 tokens fit between start and end; the 76th is cut, and the end token stays."""
    words = [("circle " * count).strip() for count in (75, 76)]
    (whole, whole_cut), (cut, cut_cut) = (TOKENIZER.encode(text) for text in words)

    assert (False, True) == (whole_cut, cut_cut)
    assert (CONTEXT_LENGTH, CONTEXT_LENGTH) == (len(whole), len(cut))
    assert END_ID == cut[-1]


@pytest.mark.parametrize(
    ("lengths", "width"),
    [
        pytest.param([3], 8, id="the smallest bucket"),
        pytest.param([8, 5], 8, id="exactly a bucket"),
        pytest.param([9, 3], 12, id="one more"),
        pytest.param([49], 77, id="the whole context"),
    ],
)
def test_pads_to_the_bucket_of_the_longest(lengths: list[int], width: int) -> None:
    """A batch is as wide as the bucket of its longest text, filled up with the end token."""
    padded = TOKENIZER.pad([np.ones(length, dtype=np.int64) for length in lengths])

    assert (len(lengths), width) == padded.shape
    assert [[1] * length + [END_ID] * (width - length) for length in lengths] == padded.tolist()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_becomes_tokens(text: str) -> None:
    """Every text that the contract lets in fits the model: start, tokens, end, and never more than the context."""
    ids, _ = TOKENIZER.encode(text)

    assert 2 <= len(ids) <= CONTEXT_LENGTH
    assert END_ID == ids[-1]
