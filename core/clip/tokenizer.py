"""Text to token ids, with the model's own tokenizer.json (Rust), cut to the model's context."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from core.clip.artifact import ModelDirectory
from core.errors import StartError

TokenIds = npt.NDArray[np.int64]

# CLIP's text tower is causal and reads its vector at the first end token, so what stands behind that changes
# nothing: a batch is padded to the next of these lengths instead of the full context, for a sixth of the work. Search
# texts have 5 to 15 tokens, so the steps are finest there; each more would cost an engine half a megabyte of kernels
# per batch size.
_LENGTH_BUCKETS = (8, 12, 16, 24, 32, 48, 77)


class ClipTokenizer:
    """Thread-safe. `context_length` counts tokens, start and end token included."""

    def __init__(self, path: Path, context_length: int) -> None:
        """Raises `StartError` for a file that is no tokenizer, or one that puts no token at the end of a text."""
        self._tokenizer = _open(path)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(context_length)
        self._context_length = context_length
        ends = self._tokenizer.encode("").ids[-1:]
        if not ends:
            raise StartError(f"CLIP_MODEL: {path} ends a text with no token: it is not the tokenizer of a CLIP")
        self._end_id = int(ends[0])

    @classmethod
    def of(cls, directory: ModelDirectory) -> "ClipTokenizer":
        """That of a model. Raises `StartError` unless its ids are those that the text tower knows.

        Otherwise there would be an index out of range, or one vector for all texts: where no token is the end token,
        transformers, and so the tower, reads the vector at the start.
        """
        tokenizer, text = cls(directory.tokenizer_path, directory.context_length), directory.architecture.text_config
        size = tokenizer._tokenizer.get_vocab_size()
        if size > text.vocab_size:
            raise StartError(
                f"CLIP_MODEL: {directory.tokenizer_path} has {size} tokens, and config.json says {text.vocab_size}"
            )
        if text.end_token_id not in (None, tokenizer._end_id):
            raise StartError(
                f"CLIP_MODEL: {directory.tokenizer_path} ends a text with token {tokenizer._end_id},"
                f" and config.json says {text.end_token_id}"
            )
        return tokenizer

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


def _open(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # that very class: the library has no other
        raise StartError(f"CLIP_MODEL: {path} is not a tokenizer: {error}") from error
