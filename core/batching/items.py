"""What waits for the device: one payload, who waits for its row, and until when."""

import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from core.deadline import Deadline
from core.errors import DeadlineExceeded, ServiceError

Payload = npt.NDArray[Any]


class Modality(Enum):
    """Which tower an item goes through. Each has its own queue: a batch is all images or all texts."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row of a forward pass: float32 (dim,), not normalised, with its waiting and computing time in ms."""

    vector: npt.NDArray[np.float32]
    queue_ms: float
    inference_ms: float


@dataclass(slots=True)
class Item:
    """Settled exactly once: whoever comes second (a device that wakes up after the watchdog) is ignored."""

    payload: Payload
    deadline: Deadline
    queued_at_s: float = field(default_factory=time.monotonic)
    future: "Future[Encoded]" = field(default_factory=Future)

    def succeed(self, encoded: Encoded) -> None:
        """Answer with a row."""
        with suppress(InvalidStateError):
            self.future.set_result(encoded)

    def fail(self, error: ServiceError) -> None:
        """Answer with an error."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def still_wanted(self) -> bool:
        """Called once, when the device takes the item: False if its caller has gone or its time is over."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if self.deadline.expired:
            self.fail(DeadlineExceeded())
            return False
        return True
