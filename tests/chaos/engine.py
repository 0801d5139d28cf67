"""An engine that does to the service what real ones do on their worst days; only tests and the chaos run load it.

What happens is in the payload: a token or a pixel value names it. A text is its characters' code points (see
`tokenize`), an image is one grey value (see `decode`), and the right vector of both is known to whoever sent it.
"""

import ctypes
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.clip.engine import EngineBroken, Pixels, TokenIds, Vectors
from core.errors import InvalidImage

DIM = 8
MAX_TOKENS = 32
IMAGE_BYTES = 16

# First character of a text: what becomes of it.
POISON, NAN, HANG, FATAL, SEIZE = "!", "~", "#", "$", "%"

_MODES = {ord(mode): mode for mode in (POISON, NAN, HANG, FATAL, SEIZE)}


def right_vector(text: str) -> npt.NDArray[np.float32]:
    """The vector, not normalised, that the engine gives to a text: different for every text of digits."""
    values = np.frombuffer(text.encode().ljust(DIM, b" ")[:DIM], dtype=np.uint8)
    return values.astype(np.float32)


class ScriptedEngine:
    """Each forward pass takes `item_s` for every item; `max_items` of them fit into its memory.

    A pass that hangs does so until the process ends, or until the file `release` is there.
    """

    name, device, dtype = "scripted", "cpu", "float32"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self, *, item_s: float, max_items: int, release: Path | None = None) -> None:
        self._item_s = item_s
        self._max_items = max_items
        self._release = release

    def prepare_thread(self) -> None:
        pass

    def encode_images(self, pixels: Pixels) -> Vectors:
        return self._encode(pixels)

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        return self._encode(token_ids)

    def _encode(self, batch: npt.NDArray[Any]) -> Vectors:
        if len(batch) > self._max_items:
            raise MemoryError("the scripted device is full")
        modes = {_MODES.get(int(row[0])) for row in batch}
        if FATAL in modes:
            raise EngineBroken("the scripted device is gone")
        if SEIZE in modes:
            seize_interpreter()
        if HANG in modes:
            self._hang()
        if POISON in modes:
            raise RuntimeError("a poisoned item")
        time.sleep(self._item_s * len(batch))
        rows = batch[:, :DIM].astype(np.float32)
        rows[[_MODES.get(int(row[0])) == NAN for row in batch]] = np.nan
        return rows

    def _hang(self) -> None:
        while self._release is None or not self._release.exists():
            threading.Event().wait(0.05)


def seize_interpreter() -> None:
    """Hang as a driver does that does not give the interpreter lock back: no other thread runs Python any more."""
    ctypes.PyDLL(None).sleep(3600)


def tokenize(text: str) -> tuple[TokenIds, bool]:
    """One token per byte, at least DIM of them."""
    values = text.encode().ljust(DIM, b" ")
    return np.frombuffer(values[:MAX_TOKENS], dtype=np.uint8).astype(np.int64), len(values) > MAX_TOKENS


def pad(tokens: Any) -> TokenIds:  # noqa: ANN401 - a list of arrays
    """Stack texts of different lengths."""
    longest = max(len(row) for row in tokens)
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=32) for row in tokens])


def decode(data: bytes) -> Pixels:
    """An "image" is IMAGE_BYTES or more bytes of which the first DIM are its vector."""
    if len(data) < IMAGE_BYTES:
        raise InvalidImage
    return np.frombuffer(data[:IMAGE_BYTES], dtype=np.uint8)
