"""Text to token ids, with the model's own tokenizer.json (Rust), cut to the model's context."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

TokenIds = npt.NDArray[np.int64]

# CLIP's text tower is causal and reads its vector at the first end token, so what stands behind that changes
# nothing: a batch is padded to the next of these lengths instead of the full context, for a sixth of the work. Search
# texts have 5 to 15 tokens, so the steps are finest there; each more would cost an engine half a megabyte of kernels
# per batch size.
_LENGTH_BUCKETS = (8, 12, 16, 24, 32, 48, 77)


class ClipTokenizer:
    """Thread-safe. `context_length` counts tokens, start and end token included."""

    def __init__(self, path: Path, context_length: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(context_length)
        self._context_length = context_length
        self._end_id = int(self._tokenizer.encode("").ids[-1])

    def encode(self, text: str) -> tuple[TokenIds, bool]:
        """Return ids of shape (tokens,), end token last, and whether the text was cut to fit."""
        encoding = self._tokenizer.encode(text)
        return np.asarray(encoding.ids, dtype=np.int64), bool(encoding.overflowing)

    def width(self, tokens: int) -> int:
        """To how many tokens a text of `tokens` is padded when it is alone."""
        return min(next((size for size in _LENGTH_BUCKETS if size >= tokens), tokens), self._context_length)

    def pad(self, texts: Sequence[TokenIds]) -> TokenIds:
        """Stack ids of different lengths to (n, bucket), filled up with the end token."""
        width = max(self.width(len(ids)) for ids in texts)
        padded = np.full((len(texts), width), self._end_id, dtype=np.int64)
        for row, ids in zip(padded, texts, strict=True):
            row[: len(ids)] = ids
        return padded
