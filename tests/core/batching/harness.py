"""A scheduler with real device threads over a scripted engine, and futures of what is given to it."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.batching.batcher import Batcher
from core.batching.device import Device
from core.batching.items import Encoded, Group, Item, Modality
from core.batching.scheduler import Limits, Scheduler
from core.clip.engine import EngineBroken
from core.deadline import Cancellation, Deadline
from core.errors import ServiceError

DIM = 4
SOON_S = 30.0
POISON, NAN, ZERO, FATAL = -1, -2, -3, -4


class ScriptedEngine:
    """Answers each payload with a row of its value; special values fail in their own way. Records batches."""

    name, device, dtype = "scripted", "cpu", "float32"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.room = 1000
        self.sick = False

    def prepare_thread(self) -> None:
        self.threads.add(threading.get_ident())

    def encode_images(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return self._encode("image", pixels)

    def encode_texts(self, token_ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return self._encode("text", token_ids)

    def _encode(self, kind: str, payloads: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = [int(value) for value in payloads]
        self.batches.append((kind, values))
        self.threads.add(threading.get_ident())
        self.entered.release()
        self.gate.wait(SOON_S)
        if FATAL in values:
            raise EngineBroken("gone")
        if len(values) > self.room:
            raise MemoryError
        if POISON in values or self.sick:
            raise RuntimeError("a poisoned item")
        rows = np.repeat(np.asarray(values, dtype=np.float32)[:, None], DIM, axis=1)
        rows[[value == NAN for value in values]] = np.nan
        rows[[value == ZERO for value in values]] = 0.0
        return rows


@dataclass(frozen=True, slots=True)
class Pending:
    """An item that was given to the scheduler."""

    item: Item

    def outcome(self) -> Encoded | ServiceError | None:
        """What became of it, once it is settled; None if that does not happen."""
        self.item.group.wait()
        return self.item.outcome

    def value(self) -> int:
        """The number that came back."""
        outcome = self.outcome()
        assert isinstance(outcome, Encoded), outcome
        return int(outcome.vector[0])


def _no_time() -> float:
    """No pass takes any: how long they take here says nothing, and must decide nothing."""
    return 0.0


class Running:
    """What the tests drive. A request is left to itself: its places are not given back."""

    def __init__(self, engines: Sequence[ScriptedEngine], *, max_batch: int, max_items: int) -> None:
        limits = Limits(max_items=max_items, max_batch=max_batch, max_tokens=1_000_000, max_turn_s=0.1)
        # Kept: a request that is forgotten would leave.
        self._requests: list[AbstractContextManager[None]] = []
        stack = {Modality.IMAGE: np.stack, Modality.TEXT: np.stack}
        self.scheduler = Scheduler(limits, shared=False, decoders=1, grant=lambda _item: None, clock=_no_time)
        self.batcher = Batcher(
            self.scheduler,
            [Device(engine, stack, dim=DIM, max_batch=max_batch) for engine in engines],
            clock=_no_time,
        )

    def submit(
        self,
        values: Sequence[int],
        modality: Modality = Modality.IMAGE,
        *,
        deadline_s: float = SOON_S,
        cancellation: Cancellation | None = None,
    ) -> list[Pending]:
        """Give all of them to the scheduler at once."""
        items = [Item(modality, Group(Deadline.after(deadline_s, cancellation)), np.asarray(value)) for value in values]
        request = self.scheduler.entered(items)
        request.__enter__()
        self._requests.append(request)
        if modality is Modality.IMAGE:
            self.scheduler.add_decoded(items)
        else:
            for item in items:
                self.scheduler.add_texts([item])
        return [Pending(item) for item in items]

    @contextmanager
    def busy(self, engine: ScriptedEngine) -> Iterator[None]:
        """Hold the device with one image, so that what is submitted inside gathers."""
        engine.gate.clear()
        engine.entered = threading.Semaphore(0)
        self.submit([999])
        assert engine.entered.acquire(timeout=SOON_S)
        yield
        engine.gate.set()

    def passes_end(self) -> None:
        """Wait until no pass runs."""
        until_s = time.monotonic() + SOON_S
        while any(serial is not None for serial in self.batcher.pass_serials()) and time.monotonic() < until_s:
            time.sleep(0.001)


@contextmanager
def running(*engines: ScriptedEngine, max_batch: int = 4, max_items: int = 100) -> Iterator[Running]:
    target = Running(engines, max_batch=max_batch, max_items=max_items)
    try:
        yield target
    finally:
        for engine in engines:
            engine.gate.set()
        target.batcher.close()
