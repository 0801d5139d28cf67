"""Token ids, truncation and padding of the bundled model's tokenizer."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from core.clip.artifact import open_model
from core.clip.tokenizer import ClipTokenizer
from core.errors import StartError
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda content: content.clear(), "is not a tokenizer", id="nothing in it"),
        pytest.param(lambda content: content.update(post_processor=None), "ends a text with no token", id="no ends"),
    ],
)
def test_file_that_is_no_clip_tokenizer_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    """It names the file; without an end token there would be no place to read a vector at."""
    content = json.loads(PATH.read_bytes())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))

    with pytest.raises(StartError, match=rf"\ACLIP_MODEL: .*tokenizer\.json {words}[^\n]*\Z"):
        ClipTokenizer(tmp_path / "tokenizer.json", CONTEXT_LENGTH)


def test_more_tokens_than_the_model_has_are_refused(tmp_path: Path) -> None:
    """A text with one of them would end in an index out of range, on a GPU in a device that is lost."""
    shutil.copytree(TINY_MODEL, tmp_path / "model")
    directory = open_model(str(tmp_path / "model"))
    text = directory.architecture.text_config.model_copy(update={"vocab_size": 632})
    smaller = replace(directory, architecture=directory.architecture.model_copy(update={"text_config": text}))

    with pytest.raises(StartError, match=r"has 633 tokens, and config\.json says 632"):
        ClipTokenizer.of(smaller)
