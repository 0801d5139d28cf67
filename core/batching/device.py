"""Runs batches on one engine and survives what goes wrong there; used by one thread alone.

A batch that fails is halved until the guilty item is alone; one that ran out of memory also makes the next ones
smaller; a row that is no usable vector is that item's error. When items fail in a row, one that was right before is
tried again: if that fails too, the device is lost, whatever its errors say.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.batching.batch_limit import BatchLimit
from core.batching.items import Encoded, Item, Modality, Payload
from core.batching.tally import Tally
from core.clip.engine import Engine, EngineBroken, Vectors
from core.errors import InferenceFailed

logger = logging.getLogger(__name__)

Stack = Callable[[Sequence[Payload]], Payload]

# Poisoned items are rare. So many failures with no success between them are more likely the device's own.
SUSPICIOUS_FAILURES = 8

# What an engine says is about shapes and memory, never about a stranger's words; still, it should not fill the log.
_MAX_CAUSE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class _Failure:
    """Not the exception: its traceback would keep the failed pass's memory while the halves need it."""

    cause: str
    out_of_memory: bool


class Device:
    """`out_of_memory` are the exceptions with which the engine says that a batch is too large for it.

    `pass_serial` is the number of the forward pass that runs now, or None: two looks that see the same one see a pass
    that has not ended in between.
    """

    def __init__(
        self,
        engine: Engine,
        stack: Mapping[Modality, Stack],
        *,
        dim: int,
        max_batch: int,
        out_of_memory: tuple[type[Exception], ...],
    ) -> None:
        self.name = engine.device
        self.running: Sequence[Item] = ()
        self.pass_serial: int | None = None
        self.done = {modality: Tally() for modality in Modality}
        self._encoders: dict[Modality, Callable[[Payload], Vectors]] = {
            Modality.IMAGE: engine.encode_images,
            Modality.TEXT: engine.encode_texts,
        }
        self._stack = stack
        self._dim = dim
        self._out_of_memory = out_of_memory
        self._limits = {modality: BatchLimit(max_batch) for modality in Modality}
        self._passes = 0
        self._failures_in_a_row = 0
        self._known_good: dict[Modality, Payload] = {}

    def limit(self, modality: Modality) -> int:
        """How many items to hand to `run` at most."""
        return self._limits[modality].now

    def run(self, modality: Modality, items: Sequence[Item]) -> None:
        """Settle every item. Raises `EngineBroken` when the device is lost; then some are not settled."""
        queued_until_s = time.monotonic()
        outcome = self._forward(modality, [item.payload for item in items])
        if isinstance(outcome, _Failure):
            self._recover(modality, items, outcome)
            return
        self._limits[modality].went_well(len(items))
        inference_ms = (time.monotonic() - queued_until_s) * 1000
        waited_s = sum(queued_until_s - item.queued_at_s for item in items)
        self.done[modality] += Tally(1, len(items), inference_ms / 1000, waited_s)
        logger.debug("batch", extra={"batch_size": len(items), "inference_ms": round(inference_ms, 2)})
        for item, vector in zip(items, outcome, strict=True):
            if _is_usable(vector):
                item.succeed(Encoded(vector, (queued_until_s - item.queued_at_s) * 1000, inference_ms))
                self._note_success(modality, item)
            else:
                self._fail(modality, item, "a row that is not finite or is zero")

    def _forward(self, modality: Modality, payloads: Sequence[Payload]) -> Vectors | _Failure:
        self._passes += 1
        self.pass_serial = self._passes
        try:
            vectors = self._encoders[modality](self._stack[modality](payloads))
        except EngineBroken:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"[:_MAX_CAUSE_CHARACTERS]
            return _Failure(cause, isinstance(error, self._out_of_memory))
        finally:
            self.pass_serial = None
        if vectors.shape != (len(payloads), self._dim):
            return _Failure(f"rows of {vectors.shape}, not {(len(payloads), self._dim)}", out_of_memory=False)
        return vectors

    def _recover(self, modality: Modality, items: Sequence[Item], failure: _Failure) -> None:
        if failure.out_of_memory:
            self._limits[modality].ran_out(len(items))
        if len(items) == 1:
            self._fail(modality, items[0], failure.cause)
            return
        fields = {"batch_size": len(items), "cause": failure.cause, "max_batch": self.limit(modality)}
        logger.warning("a batch failed and is halved", extra=fields)
        middle = len(items) // 2
        self.run(modality, items[:middle])
        self.run(modality, items[middle:])

    def _fail(self, modality: Modality, item: Item, cause: str) -> None:
        logger.error("the model failed on an item", extra={"modality": modality.value, "cause": cause})
        item.fail(InferenceFailed())
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= SUSPICIOUS_FAILURES:
            self._require_working(modality)

    def _note_success(self, modality: Modality, item: Item) -> None:
        self._failures_in_a_row = 0
        self._known_good[modality] = item.payload

    def _require_working(self, modality: Modality) -> None:
        """Raises `EngineBroken` unless an item that was right before still is."""
        self._failures_in_a_row = 0
        payload = self._known_good.get(modality)
        outcome = self._forward(modality, [payload]) if payload is not None else None
        if outcome is None or isinstance(outcome, _Failure) or not _is_usable(outcome[0]):
            raise EngineBroken(f"{SUSPICIOUS_FAILURES} items failed in a row, and so does one that was right before")


def _is_usable(vector: npt.NDArray[np.float32]) -> bool:
    norm = float(np.linalg.norm(vector))
    return bool(np.isfinite(norm)) and norm > 0.0
