"""Batching with a scripted engine: sharing, order, bounds, poisoned items, deadlines, loss of the device."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batcher import Batcher, Encoded, Modality
from core.clip.engine import EngineBroken
from core.deadline import Deadline
from core.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded

DIM = 4
SOON_S = 30.0
POISON, NAN, ZERO, FATAL = -1, -2, -3, -4


class ScriptedEngine:
    """Answers each payload with a row of its value; special values fail in their own way. Records batches."""

    name, device, dtype = "scripted", "cpu", "float32"

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

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
        if POISON in values:
            raise RuntimeError("a poisoned item")
        rows = np.repeat(np.asarray(values, dtype=np.float32)[:, None], DIM, axis=1)
        rows[[value == NAN for value in values]] = np.nan
        rows[[value == ZERO for value in values]] = 0.0
        return rows


@contextmanager
def batcher(engine: ScriptedEngine, *, max_batch: int = 4, max_items: int = 100) -> Iterator[Batcher]:
    stack = {Modality.IMAGE: np.stack, Modality.TEXT: np.stack}
    running = Batcher([engine], stack, dim=DIM, max_batch=max_batch, max_items=max_items)
    try:
        yield running
    finally:
        engine.gate.set()
        running.close()


def submit(
    target: Batcher, values: Sequence[int], modality: Modality = Modality.IMAGE, deadline_s: float = SOON_S
) -> Any:  # noqa: ANN401
    payloads = [np.asarray(value) for value in values]
    return target.submit(modality, payloads, Deadline.after(deadline_s))


def value(encoded: Encoded) -> int:
    return int(encoded.vector[0])


@contextmanager
def busy(engine: ScriptedEngine, target: Batcher) -> Iterator[None]:
    """Hold the device with one item, so that what is submitted inside gathers in the queue."""
    engine.gate.clear()
    submit(target, [999])
    assert engine.entered.acquire(timeout=SOON_S)
    yield
    engine.gate.set()


def test_items_of_different_requests_share_a_batch() -> None:
    """What gathers while the device works is taken together, up to the maximum, in order."""
    engine = ScriptedEngine()
    with batcher(engine, max_batch=4) as target:
        with busy(engine, target):
            futures = [submit(target, [number])[0] for number in range(1, 7)]
        results = [value(future.result(SOON_S)) for future in futures]

    assert [1, 2, 3, 4, 5, 6] == results
    assert [("image", [999]), ("image", [1, 2, 3, 4]), ("image", [5, 6])] == engine.batches
    assert 1 == len(engine.threads)


def test_lone_item_does_not_wait() -> None:
    """A free device takes a single item as it is."""
    engine = ScriptedEngine()
    with batcher(engine) as target:
        submit(target, [5])[0].result(SOON_S)

    assert [("image", [5])] == engine.batches


def test_images_and_texts_have_their_own_batches_and_turns() -> None:
    """The modality whose head has waited longest goes first."""
    engine = ScriptedEngine()
    with batcher(engine) as target:
        with busy(engine, target):
            submit(target, [1], Modality.TEXT)
            submit(target, [2], Modality.IMAGE)
            last = submit(target, [3], Modality.TEXT)[0]
        last.result(SOON_S)

    assert [("text", [1, 3]), ("image", [2])] == engine.batches[1:]


@given(values=st.lists(st.sampled_from([1, 2, 3, POISON, NAN, ZERO]), min_size=1, max_size=12))
def test_a_failing_item_fails_alone(values: list[int]) -> None:
    """Whichever items are poisoned, exactly those fail, and every other gets its own row."""
    engine = ScriptedEngine()
    with batcher(engine, max_batch=8) as target:
        with busy(engine, target):
            futures = submit(target, values)
        outcomes = [future.exception(SOON_S) or value(future.result()) for future in futures]

    for sent, outcome in zip(values, outcomes, strict=True):
        assert outcome == sent if sent > 0 else isinstance(outcome, InferenceFailed)


def test_wrong_number_of_rows_is_a_failure() -> None:
    """Rows cannot be told apart once their number is wrong: no item gets somebody else's vector."""

    class ShortEngine(ScriptedEngine):
        def _encode(self, kind: str, payloads: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            return super()._encode(kind, payloads)[:-1]

    engine = ShortEngine()
    with batcher(engine) as target:
        errors = [future.exception(SOON_S) for future in submit(target, [1, 2])]

    assert [InferenceFailed, InferenceFailed] == [type(error) for error in errors]


def test_full_queue_refuses_all_of_a_request_at_once() -> None:
    """Either all items of a request fit or none is queued."""
    engine = ScriptedEngine()
    with batcher(engine, max_items=3) as target:
        with busy(engine, target):
            first = submit(target, [1, 2])
            with pytest.raises(Overloaded):
                submit(target, [3, 4])
            third = submit(target, [5])
        results = [value(future.result(SOON_S)) for future in [*first, *third]]

    assert [1, 2, 5] == results


def test_expired_and_cancelled_items_are_not_run() -> None:
    """Nobody waits for them: they never reach the model."""
    engine = ScriptedEngine()
    with batcher(engine) as target:
        with busy(engine, target):
            expired = submit(target, [1], deadline_s=0.0)[0]
            cancelled = submit(target, [2])[0]
            assert cancelled.cancel()
            wanted = submit(target, [3])[0]
        wanted.result(SOON_S)

    assert isinstance(expired.exception(SOON_S), DeadlineExceeded)
    assert [("image", [3])] == engine.batches[1:]


def test_lost_device_answers_everything_and_takes_nothing_more() -> None:
    """A broken engine fails what runs and what is queued with a retryable error, and turns unhealthy."""
    engine = ScriptedEngine()
    with batcher(engine, max_batch=1) as target:
        with busy(engine, target):
            futures = [*submit(target, [FATAL]), *submit(target, [1])]
        errors = [future.exception(SOON_S) for future in futures]

        assert [NotReady, NotReady] == [type(error) for error in errors]
        assert not target.healthy
        with pytest.raises(NotReady):
            submit(target, [1])


def test_close_fails_what_is_queued() -> None:
    """Closing finishes the running batch and answers the rest."""
    engine = ScriptedEngine()
    with batcher(engine) as target:
        engine.gate.clear()
        running = submit(target, [1])[0]
        assert engine.entered.acquire(timeout=SOON_S)
        queued = submit(target, [2])[0]
        closer = threading.Thread(target=target.close)
        closer.start()
        error = queued.exception(SOON_S)
        engine.gate.set()
        closer.join(SOON_S)

    assert isinstance(error, NotReady)
    assert 1 == value(running.result(SOON_S))
