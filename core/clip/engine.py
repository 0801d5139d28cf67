"""What an engine is: the only thing that touches the model, called from one thread only."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
TokenIds = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class EngineBroken(Exception):
    """The device is lost: no later call can succeed in this process."""


class OutOfDeviceMemory(Exception):
    """The device had no memory for a batch: a smaller one may do."""


class Engine(Protocol):
    """Runs both towers on one device. Not thread-safe: one of the batcher's threads owns it."""

    @property
    def name(self) -> str:
        """The engine's name in responses, such as `torch`."""

    @property
    def device(self) -> str:
        """`cpu`, `cuda` or `cuda:1`."""

    @property
    def dtype(self) -> str:
        """The numeric type of the forward pass, such as `float16`."""

    @property
    def out_of_memory(self) -> tuple[type[Exception], ...]:
        """What it raises when a batch is too large for it; a smaller one may do."""

    def prepare_thread(self) -> None:
        """Called once by the thread that will own the engine, before anything else. Raises `StartError`."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        """Turn uint8 (n, 3, size, size) RGB into float32 (n, dim), not normalised."""

    def encode_texts(self, token_ids: TokenIds) -> Vectors:
        """Turn int64 (n, tokens), padded with the end token, into float32 (n, dim), not normalised."""
