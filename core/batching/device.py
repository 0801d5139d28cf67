"""Runs batches on one engine and survives what goes wrong there; used by one thread alone.

A batch that fails is halved until the guilty item is alone; one that ran out of memory also makes the next ones
smaller; a row that is no usable vector is that item's error. When items fail in a row, one that was right before is
tried again: if that fails too, the device is lost, whatever its errors say.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from core.batching.batch_limit import BatchLimit
from core.batching.items import Encoded, Item, Modality, Payload
from core.batching.tally import Done, Tally
from core.clip.engine import Engine, EngineBroken, Vectors
from core.errors import InferenceFailed

logger = logging.getLogger(__name__)

Stack = Callable[[Sequence[Payload]], npt.NDArray[Any]]

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
    """`out_of_memory` are the exceptions with which the engine says that a batch is too large for it."""

    def __init__(
        self,
        engine: Engine,
        stack: Mapping[Modality, Stack],
        *,
        dim: int,
        max_batch: int,
        prepare_thread: Callable[[], None] = lambda: None,
        out_of_memory: tuple[type[Exception], ...] = (MemoryError,),
    ) -> None:
        self.name = engine.device
        self.prepare_thread = prepare_thread
        self.pass_serial: int | None = None
        self._serials = count(1)
        self.done = Done(self.name)
        self._encoders: dict[Modality, Callable[[npt.NDArray[Any]], Vectors]] = {
            Modality.IMAGE: engine.encode_images,
            Modality.TEXT: engine.encode_texts,
        }
        self._stack = stack
        self._dim = dim
        self._out_of_memory = out_of_memory
        self._limits = {modality: BatchLimit(max_batch) for modality in Modality}
        self._failures_in_a_row = 0
        # One row of input that was right once, as the engine takes it: a copy, the payload's memory is used again.
        self._known_good: dict[Modality, npt.NDArray[Any]] = {}

    def limit(self, modality: Modality) -> int:
        """How many items to hand to `run` at most."""
        return self._limits[modality].now

    def run(self, modality: Modality, items: Sequence[Item]) -> None:
        """Settle every item. Raises `EngineBroken` when the device is lost; then some are not settled."""
        began_s = time.monotonic()
        outcome = self._forward(modality, [item.payload for item in items])
        if isinstance(outcome, _Failure):
            self._recover(modality, items, outcome)
            return
        self._limits[modality].went_well(len(items))
        inference_ms = (time.monotonic() - began_s) * 1000
        waited_s = sum(began_s - item.ready_s for item in items)
        tokens = sum(item.tokens for item in items) if modality is Modality.TEXT else 0
        padding = len(items) * max(item.width for item in items) - tokens if modality is Modality.TEXT else 0
        self.done.note(modality, Tally(1, len(items), inference_ms / 1000, waited_s, tokens, padding))
        logger.debug("batch", extra={"batch_size": len(items), "inference_ms": round(inference_ms, 2)})
        for item, vector, norm in zip(items, outcome, _norms(outcome), strict=True):
            if _is_usable(norm):
                self._failures_in_a_row = 0
                item.settle(Encoded(vector, norm, began_s, inference_ms))
            else:
                self._fail(modality, item, "a row that is not finite or is zero")

    def _forward(self, modality: Modality, payloads: Sequence[Payload]) -> Vectors | _Failure:
        self.pass_serial = next(self._serials)
        try:
            batch = self._stack[modality](payloads)
            vectors = self._encoders[modality](batch)
        except EngineBroken:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"[:_MAX_CAUSE_CHARACTERS]
            return _Failure(cause, isinstance(error, self._out_of_memory))
        finally:
            self.pass_serial = None
        if vectors.shape != (len(payloads), self._dim):
            return _Failure(f"rows of {vectors.shape}, not {(len(payloads), self._dim)}", out_of_memory=False)
        if modality not in self._known_good and _is_usable(_norms(vectors[:1])[0]):
            self._known_good[modality] = batch[:1].copy()
        return vectors

    def _recover(self, modality: Modality, items: Sequence[Item], failure: _Failure) -> None:
        if failure.out_of_memory:
            self._limits[modality].ran_out(len(items))
            self.done.out_of_memory += 1
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
        item.settle(InferenceFailed())
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= SUSPICIOUS_FAILURES:
            self._require_working(modality)

    def _require_working(self, modality: Modality) -> None:
        """Raises `EngineBroken` unless a row of input that was right before still is."""
        self._failures_in_a_row = 0
        known_good = self._known_good.get(modality)
        if known_good is None or not self._is_right(modality, known_good):
            raise EngineBroken(f"{SUSPICIOUS_FAILURES} items failed in a row, and so does one that was right before")

    def _is_right(self, modality: Modality, batch: npt.NDArray[Any]) -> bool:
        self.pass_serial = next(self._serials)
        try:
            vectors = self._encoders[modality](batch)
        except EngineBroken:
            raise
        except Exception:
            return False
        finally:
            self.pass_serial = None
        return vectors.shape == (1, self._dim) and _is_usable(_norms(vectors)[0])


def _norms(vectors: Vectors) -> list[float]:
    norms: list[float] = np.linalg.norm(vectors, axis=1).tolist()
    return norms


def _is_usable(norm: float) -> bool:
    return math.isfinite(norm) and norm > 0.0
