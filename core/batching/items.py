"""What waits for the device: the items of a request, who waits for them, and until when."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from core.deadline import Deadline
from core.errors import DeadlineExceeded, ServiceError

Payload = Any
"""What an engine's stack takes: the token ids of a text, or an image on its way to pixels."""


class Modality(Enum):
    """Which tower an item goes through: a forward pass is all images or all texts."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row of a forward pass: float32 (dim,), not normalised, and its L2 norm; when its pass began, and its time.

    A `cached` one is of a pass for somebody else; it began when it was found.
    """

    vector: npt.NDArray[np.float32]
    norm: float
    began_s: float
    inference_ms: float
    cached: bool = False


class Group:
    """The items of one request: settled one by one, from any thread, and waited for together."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.arrived_s = time.monotonic()
        self.lock = threading.Lock()
        self._left = 0
        self._all_settled = threading.Event()
        if deadline.cancellation is not None:
            deadline.cancellation.then(self._all_settled.set)

    def join(self) -> None:
        """One more item belongs to it; before any of them is settled."""
        self._left += 1

    def leave(self) -> None:
        """One item has been settled; called with `lock` held."""
        self._left -= 1
        if self._left == 0:
            self._all_settled.set()

    def wait(self) -> bool:
        """Wait until all items are settled; False when the deadline comes first, or nobody wants them any more."""
        self._all_settled.wait(self.deadline.remaining_s())
        return self._left == 0


@dataclass(slots=True, eq=False)
class Item:
    """Settled exactly once: whoever comes second (a device that wakes up after the watchdog) is ignored.

    `width` is what it takes of a pass: the padded tokens of a text, 1 for an image; `tokens` is how many of those are
    the text's own. A text is `due_s` when its turn is.
    """

    modality: Modality
    group: Group
    payload: Payload
    width: int = 1
    tokens: int = 0
    ready_s: float = 0.0
    due_s: float = 0.0
    outcome: Encoded | ServiceError | None = None
    _then: Callable[["Item"], object] | None = None

    def __post_init__(self) -> None:
        self.group.join()

    def settle(self, outcome: Encoded | ServiceError) -> None:
        """Answer with a row or an error."""
        with self.group.lock:
            if self.outcome is not None:
                return
            self.outcome = outcome
            self.group.leave()
        if self._then is not None:
            self._then(self)

    def when_settled(self, call: Callable[["Item"], object]) -> None:
        """Have `call`, which must be quick, called with this item, on the thread that settles it; at once if that has
        been. The last one who asks is called.
        """
        with self.group.lock:
            self._then = call
            if self.outcome is None:
                return
        call(self)

    def still_wanted(self) -> bool:
        """Whether it is worth a forward pass: not if it has been settled, its caller has gone or its time is over."""
        if self.outcome is None and self.group.deadline.expired:
            self.settle(DeadlineExceeded())
        return self.outcome is None


def outcomes(group: Group, items: Sequence[Item]) -> list[Encoded | ServiceError]:
    """Wait for all `items` of `group` and return what became of each, in order; late ones become errors."""
    if not group.wait():
        for item in items:
            item.settle(DeadlineExceeded())
    return [item.outcome or DeadlineExceeded() for item in items]
