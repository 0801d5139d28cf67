"""Dynamic batching: items of all requests share forward passes, on one thread per device.

No artificial delay: a free device takes what is queued, up to the maximum; while it works, items gather. Knows
neither torch nor the network; an engine and a way to stack items are given to it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from core.clip.engine import Engine, EngineBroken, Vectors
from core.deadline import Deadline
from core.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded

logger = logging.getLogger(__name__)

Payload = npt.NDArray[Any]
Stack = Callable[[Sequence[Payload]], Payload]


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
class _Item:
    payload: Payload
    deadline: Deadline
    queued_at_s: float = field(default_factory=time.monotonic)
    future: "Future[Encoded]" = field(default_factory=Future)


class Batcher:
    """Owns the device threads. `submit` from any thread; results come back as futures.

    `stack` makes one array of a list of payloads, by modality. `max_items` bounds what is queued, which bounds its
    bytes too: a payload is at most one preprocessed image.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        stack: Mapping[Modality, Stack],
        *,
        dim: int,
        max_batch: int,
        max_items: int,
        prepare_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._stack = stack
        self._dim = dim
        self._max_batch = max_batch
        self._max_items = max_items
        self._prepare_thread = prepare_thread
        self._queues: dict[Modality, deque[_Item]] = {modality: deque() for modality in Modality}
        self._changed = threading.Condition()
        self._closed = False
        self._broken = False
        self._threads = [
            threading.Thread(target=self._serve, args=(engine,), name=f"device-{engine.device}", daemon=True)
            for engine in engines
        ]
        for thread in self._threads:
            thread.start()

    @property
    def healthy(self) -> bool:
        """Whether every device thread still serves."""
        return not self._broken and all(thread.is_alive() for thread in self._threads)

    def submit(self, modality: Modality, payloads: Sequence[Payload], deadline: Deadline) -> list["Future[Encoded]"]:
        """Queue all payloads at once and return one future per payload, in order.

        Raises `Overloaded` if they do not all fit, `NotReady` when closed or broken. A future holds `Encoded` or
        one of `InferenceFailed`, `DeadlineExceeded`, `NotReady`.
        """
        items = [_Item(payload, deadline) for payload in payloads]
        with self._changed:
            if self._closed or self._broken:
                raise NotReady
            if sum(map(len, self._queues.values())) + len(items) > self._max_items:
                raise Overloaded
            self._queues[modality].extend(items)
            self._changed.notify()
        return [item.future for item in items]

    def close(self) -> None:
        """Stop after the batches that are running; what is still queued fails with `NotReady`."""
        with self._changed:
            self._closed = True
            self._fail_queued()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self, engine: Engine) -> None:
        self._prepare_thread()
        encoders: dict[Modality, Callable[[Payload], Vectors]] = {
            Modality.IMAGE: engine.encode_images,
            Modality.TEXT: engine.encode_texts,
        }
        while (taken := self._take()) is not None:
            modality, items = taken
            try:
                self._encode(items, self._stack[modality], encoders[modality])
            except EngineBroken:
                logger.critical("the device is lost", exc_info=True)
                self._give_up(items)
                return

    def _take(self) -> tuple[Modality, list[_Item]] | None:
        """Wait for work and take up to a batch of the modality whose head has waited longest."""
        with self._changed:
            while True:
                if self._closed or self._broken:
                    return None
                waiting = [modality for modality in Modality if self._queues[modality]]
                if not waiting:
                    self._changed.wait()
                    continue
                modality = min(waiting, key=lambda waiter: self._queues[waiter][0].queued_at_s)
                queue = self._queues[modality]
                batch = [queue.popleft() for _ in range(min(self._max_batch, len(queue)))]
                items = [item for item in batch if _still_wanted(item)]
                if items:
                    return modality, items

    def _encode(self, items: list[_Item], stack: Stack, encode: Callable[[Payload], Vectors]) -> None:
        """Run one batch and settle every item. A batch that fails is halved until the guilty item is alone."""
        started_s = time.monotonic()
        try:
            vectors = encode(stack([item.payload for item in items]))
            if vectors.shape != (len(items), self._dim):
                raise ValueError(f"{vectors.shape} from the engine, not {(len(items), self._dim)}")  # noqa: TRY301
        except EngineBroken:
            raise
        except Exception:
            if len(items) == 1:
                logger.exception("the model failed on an item")
                items[0].future.set_exception(InferenceFailed())
                return
            logger.warning("a batch failed and is halved", extra={"batch_size": len(items)}, exc_info=True)
            middle = len(items) // 2
            self._encode(items[:middle], stack, encode)
            self._encode(items[middle:], stack, encode)
            return
        inference_ms = (time.monotonic() - started_s) * 1000
        logger.debug("batch", extra={"batch_size": len(items), "inference_ms": round(inference_ms, 2)})
        for item, vector in zip(items, vectors, strict=True):
            _settle(item, vector, started_s, inference_ms)

    def _give_up(self, items: Sequence[_Item]) -> None:
        with self._changed:
            self._broken = True
            for item in items:
                if not item.future.done():
                    item.future.set_exception(NotReady())
            self._fail_queued()
            self._changed.notify_all()

    def _fail_queued(self) -> None:
        for queue in self._queues.values():
            for item in queue:
                if item.future.set_running_or_notify_cancel():
                    item.future.set_exception(NotReady())
            queue.clear()


def _still_wanted(item: _Item) -> bool:
    """False for an item whose caller has gone or whose time is over; nobody waits for its vector."""
    if not item.future.set_running_or_notify_cancel():
        return False
    if item.deadline.expired:
        item.future.set_exception(DeadlineExceeded())
        return False
    return True


def _settle(item: _Item, vector: npt.NDArray[np.float32], started_s: float, inference_ms: float) -> None:
    """Answer one item, after a check that its row is a usable vector."""
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        logger.error("the model gave a row that is not finite or is zero")
        item.future.set_exception(InferenceFailed())
        return
    queue_ms = (started_s - item.queued_at_s) * 1000
    item.future.set_result(Encoded(vector, queue_ms, inference_ms))
