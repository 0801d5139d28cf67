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

from core.batching.batch_limit import GROW_AFTER_BATCHES
from core.batching.batcher import Batcher
from core.batching.device import SUSPICIOUS_FAILURES
from core.batching.items import Encoded, Modality
from core.batching.turns import Turns
from core.clip.engine import EngineBroken
from core.deadline import Cancellation, Deadline
from core.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded

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
        pass

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


@contextmanager
def batcher(
    engine: ScriptedEngine, *, max_batch: int = 4, max_items: int = 100, turns: Turns | None = None
) -> Iterator[Batcher]:
    stack = {Modality.IMAGE: np.stack, Modality.TEXT: np.stack}
    running = Batcher([engine], stack, dim=DIM, max_batch=max_batch, max_items=max_items, turns=turns)
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
    engine.entered = threading.Semaphore(0)
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


def test_out_of_memory_halves_and_is_remembered() -> None:
    """A batch that does not fit fails no item, and the next ones are made as small as the one that did."""
    engine = ScriptedEngine()
    engine.room = 3
    with batcher(engine, max_batch=8) as target:
        with busy(engine, target):
            first = submit(target, range(1, 9))
        results = [value(future.result(SOON_S)) for future in first]
        sizes_of_first = [len(values) for _, values in engine.batches[1:]]
        with busy(engine, target):
            second = submit(target, range(1, 5))
        results += [value(future.result(SOON_S)) for future in second]

    assert [*range(1, 9), *range(1, 5)] == results
    assert [8, 4, 2, 2, 4, 2, 2] == sizes_of_first
    # The one that keeps the device busy, and then two halves: four were not tried again.
    assert [1, 2, 2] == [len(values) for _, values in engine.batches[-3:]]


def test_out_of_memory_is_remembered_per_modality() -> None:
    """Texts are not made smaller because images did not fit."""
    engine = ScriptedEngine()
    engine.room = 2
    with batcher(engine, max_batch=4) as target:
        with busy(engine, target):
            submit(target, [1, 2, 3, 4])[-1]
            texts = submit(target, [5, 6, 7, 8], Modality.TEXT)
        for future in texts:
            future.result(SOON_S)

    assert [4, 2, 2] == [len(values) for kind, values in engine.batches if kind == "text"]


def test_single_item_out_of_memory_is_its_own_error() -> None:
    """There is nothing left to halve."""
    engine = ScriptedEngine()
    with batcher(engine) as target:
        value(submit(target, [1])[0].result(SOON_S))
        engine.room = 0
        error = submit(target, [2])[0].exception(SOON_S)

    assert isinstance(error, InferenceFailed)


def test_device_that_fails_everything_is_lost() -> None:
    """Errors of an unknown kind, one after another, and an item that was right before fails too: a lost device."""
    engine = ScriptedEngine()
    with batcher(engine) as target:
        submit(target, [1])[0].result(SOON_S)
        engine.sick = True
        for number in range(SUSPICIOUS_FAILURES):
            assert submit(target, [number])[0].exception(SOON_S) is not None
        for thread in target._threads:
            thread.join(SOON_S)

        assert not target.healthy


def test_many_poisoned_items_are_no_lost_device() -> None:
    """As long as an item that was right before still is, the items are at fault."""
    engine = ScriptedEngine()
    with batcher(engine) as target:
        submit(target, [1])[0].result(SOON_S)
        errors = [submit(target, [POISON])[0].exception(SOON_S) for _ in range(3 * SUSPICIOUS_FAILURES)]
        right = value(submit(target, [2])[0].result(SOON_S))

    assert {InferenceFailed} == {type(error) for error in errors}
    assert 2 == right


def test_abandoned_items_are_not_run() -> None:
    """Nobody waits for a request whose caller has gone."""
    engine = ScriptedEngine()
    cancellation = Cancellation()
    with batcher(engine) as target:
        with busy(engine, target):
            gone = target.submit(Modality.IMAGE, [np.asarray(1)], Deadline.after(SOON_S, cancellation))[0]
            wanted = submit(target, [2])[0]
            cancellation.cancel()
        wanted.result(SOON_S)

    assert isinstance(gone.exception(SOON_S), DeadlineExceeded)
    assert [("image", [2])] == engine.batches[1:]


def test_given_up_device_leaves_nobody_waiting() -> None:
    """A stuck pass: what runs and what is queued is answered at once, and the late rows change nothing."""
    engine = ScriptedEngine()
    with batcher(engine, max_batch=1) as target:
        engine.gate.clear()
        futures = [*submit(target, [1]), *submit(target, [2])]
        assert engine.entered.acquire(timeout=SOON_S)
        stuck_s = target.forward_s()
        target.fail()
        errors = [future.exception(SOON_S) for future in futures]
        engine.gate.set()
        for thread in target._threads:
            thread.join(SOON_S)

        assert stuck_s > 0
        assert [NotReady, NotReady] == [type(error) for error in errors]
        assert not target.healthy
        assert [NotReady, NotReady] == [type(future.exception(0)) for future in futures]


def test_limit_grows_back_after_many_full_batches() -> None:
    """The memory may have been another process's, and nobody restarts a service for that."""
    engine = ScriptedEngine()
    engine.room = 1
    with batcher(engine, max_batch=2) as target:
        with busy(engine, target):
            submit(target, [1, 2])
        for _ in range(GROW_AFTER_BATCHES):
            submit(target, [1])[0].result(SOON_S)
        engine.room = 2
        with busy(engine, target):
            futures = submit(target, [3, 4])
        for future in futures:
            future.result(SOON_S)

    assert ("image", [3, 4]) == engine.batches[-1]


def test_done_work_is_counted_per_pass_and_item() -> None:
    """Two batches of images and one text: passes, items and waiting time; what failed counts as nothing done."""
    engine = ScriptedEngine()
    with batcher(engine, max_batch=4) as target:
        with busy(engine, target):
            futures = [*submit(target, [1, 2, 3, 4, 5, 6, 7, 8]), *submit(target, [9], Modality.TEXT)]
        [poisoned] = submit(target, [POISON])
        for future in futures:
            future.result(SOON_S)
        assert isinstance(poisoned.exception(SOON_S), InferenceFailed)
        images, texts = target.done[Modality.IMAGE], target.done[Modality.TEXT]

    # With the one item that kept the device busy.
    assert ((3, 9), (1, 1)) == ((images.passes, images.items), (texts.passes, texts.items))
    assert images.queue_s > 0
    assert images.forward_s > 0


def test_text_does_not_wait_for_images_that_are_being_decoded() -> None:
    """A pass that would wait for more images begins as soon as a text is there, and the text's own follows."""
    engine = ScriptedEngine()
    turns = Turns(shared=True, patience_s=1000.0)
    turns.announce()
    with batcher(engine, turns=turns) as target:
        [image] = submit(target, [1])
        with pytest.raises(TimeoutError):
            image.result(0.1)
        [text] = submit(target, [2], Modality.TEXT)
        results = [value(future.result(SOON_S)) for future in (image, text)]

    assert [1, 2] == results


def test_full_batch_does_not_wait_for_images_that_are_being_decoded() -> None:
    """There would be no room for them."""
    engine = ScriptedEngine()
    turns = Turns(shared=True, patience_s=1000.0)
    turns.announce()
    with batcher(engine, max_batch=4, turns=turns) as target:
        results = [value(future.result(SOON_S)) for future in submit(target, [1, 2, 3, 4])]

    assert [1, 2, 3, 4] == results
