"""An engine that does to the service what real ones do on their worst days; only tests and the chaos run load it.

What happens is in the payload: the first token or pixel names it. A text is its characters' code points (see
`tokenize`), an image has them as its first row of red (see `picture`): the right vector of both is known to whoever
sent it.
"""

import ctypes
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.clip.engine import EngineBroken, Pixels, TokenIds, Vectors
from core.embedder import Tokens
from tools.testbed.pictures import encoded

DIM = 8
MAX_TOKENS = 32
# A picture of this size is not resized, so its pixels come back as they were.
SIZE_PX = DIM

# First character of a text: what becomes of it.
POISON, NAN, HANG, FATAL, SEIZE = "!", "~", "#", "$", "%"

_MODES = {ord(mode): mode for mode in (POISON, NAN, HANG, FATAL, SEIZE)}


def right_vector(text: str) -> npt.NDArray[np.float32]:
    """The vector, not normalised, that the engine gives to a text or its picture: different for all of eight digits."""
    return _characters(text).astype(np.float32)


def picture(text: str) -> bytes:
    """A PNG that has the vector of `text`."""
    pixels = np.zeros((SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    pixels[0, :, 0] = _characters(text)
    return encoded(Image.fromarray(pixels), "PNG")


def _characters(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode().ljust(DIM, b" ")[:DIM], dtype=np.uint8)


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
        return self._encode(pixels.reshape(len(pixels), -1))

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


def tokenize(text: str) -> Tokens:
    """One token per byte, at least DIM of them."""
    values = text.encode().ljust(DIM, b" ")
    ids = np.frombuffer(values[:MAX_TOKENS], dtype=np.uint8).astype(np.int64)
    return Tokens(ids, len(ids), len(values) > MAX_TOKENS)


def pad(tokens: Sequence[TokenIds]) -> TokenIds:
    """Stack texts of different lengths."""
    longest = max(len(row) for row in tokens)
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=32) for row in tokens])
