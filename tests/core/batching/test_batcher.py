"""Batching with a scripted engine: sharing, order, bounds, poisoned items, deadlines, loss of the device."""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import metrics
from core.batching.batch_limit import GROW_AFTER_BATCHES
from core.batching.device import SUSPICIOUS_FAILURES
from core.batching.items import Encoded, Group, Item, Modality
from core.deadline import Cancellation, Deadline
from core.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded
from core.metrics import Distribution
from tests.core.batching.harness import FATAL, NAN, POISON, SOON_S, ZERO, Running, ScriptedEngine, running


def test_items_of_different_requests_share_a_batch() -> None:
    """What gathers while the device works is taken together, up to the maximum, in order."""
    engine = ScriptedEngine()
    with running(engine, max_batch=4) as target:
        with target.busy(engine):
            waiting = [target.submit([number])[0] for number in range(1, 7)]
        results = [pending.value() for pending in waiting]

    assert [1, 2, 3, 4, 5, 6] == results
    assert [("image", [999]), ("image", [1, 2, 3, 4]), ("image", [5, 6])] == engine.batches
    assert 1 == len(engine.threads)


def test_lone_item_does_not_wait() -> None:
    """A free device takes a single item as it is."""
    engine = ScriptedEngine()
    with running(engine) as target:
        target.submit([5])[0].outcome()

    assert [("image", [5])] == engine.batches


def test_every_free_device_is_woken() -> None:
    """Two devices share what one request brings, if it is more than one pass."""
    first, second = ScriptedEngine(), ScriptedEngine()
    with running(first, second, max_batch=2) as target:
        first.gate.clear()
        second.gate.clear()
        waiting = target.submit([1, 2, 3, 4])
        both = first.entered.acquire(timeout=SOON_S) and second.entered.acquire(timeout=SOON_S)
        first.gate.set()
        second.gate.set()
        results = [pending.value() for pending in waiting]

    assert both
    assert [1, 2, 3, 4] == results


def test_images_and_texts_have_their_own_batches_and_turns() -> None:
    """After a pass of images the texts have their turn, then images again."""
    engine = ScriptedEngine()
    with running(engine) as target:
        with target.busy(engine):
            target.submit([1], Modality.TEXT)
            image = target.submit([2], Modality.IMAGE)[0]
            target.submit([3], Modality.TEXT)
        image.outcome()

    assert [("text", [1, 3]), ("image", [2])] == engine.batches[1:]


@given(values=st.lists(st.sampled_from([1, 2, 3, POISON, NAN, ZERO]), min_size=1, max_size=12))
def test_a_failing_item_fails_alone(values: list[int]) -> None:
    """Whichever items are poisoned, exactly those fail, and every other gets its own row."""
    engine = ScriptedEngine()
    with running(engine, max_batch=8) as target:
        with target.busy(engine):
            waiting = target.submit(values)
        outcomes = [pending.outcome() for pending in waiting]

    for sent, outcome in zip(values, outcomes, strict=True):
        if sent > 0:
            assert isinstance(outcome, Encoded)
            assert sent == int(outcome.vector[0])
        else:
            assert isinstance(outcome, InferenceFailed)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda rows: rows[:-1], id="a row too few"),
        pytest.param(lambda rows: rows[:, :-1], id="rows too narrow"),
        pytest.param(lambda rows: rows[:, 0], id="no rows but numbers"),
    ],
)
def test_rows_of_a_wrong_shape_are_a_failure(wrong: Any) -> None:  # noqa: ANN401 - a lambda
    """Rows cannot be told apart once their number is wrong, nor used when their width is: no item gets such a one."""

    class WrongEngine(ScriptedEngine):
        def _encode(self, kind: str, payloads: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            rows: npt.NDArray[np.float32] = wrong(super()._encode(kind, payloads))
            return rows

    with running(WrongEngine()) as target:
        outcomes = [pending.outcome() for pending in target.submit([1, 2])]

    assert [InferenceFailed, InferenceFailed] == [type(outcome) for outcome in outcomes]


def test_full_service_refuses_all_of_a_request_at_once() -> None:
    """Either all items of a request find a place or none does."""
    engine = ScriptedEngine()
    with running(engine, max_items=4) as target:
        with target.busy(engine):
            first = target.submit([1, 2])
            with pytest.raises(Overloaded):
                target.submit([3, 4])
            third = target.submit([5])
        results = [pending.value() for pending in [*first, *third]]

    assert [1, 2, 5] == results


def test_places_are_given_back_when_the_request_ends() -> None:
    """Also those of items that never ran; and what nobody waits for leaves the queue."""
    engine = ScriptedEngine()
    with running(engine, max_items=3) as target:
        with target.busy(engine):
            items = [pending.item for pending in target.submit([1, 2])]
            target.scheduler._leave(items)
            waiting = target.scheduler.waiting_items
            last = target.submit([3, 4])
        results = [pending.value() for pending in last]

    assert 0 == waiting
    assert [3, 4] == results
    assert ("image", [3, 4]) == engine.batches[-1]


def test_expired_items_are_not_run() -> None:
    """Nobody waits for them: they never reach the model."""
    engine = ScriptedEngine()
    with running(engine) as target:
        with target.busy(engine):
            expired = target.submit([1], deadline_s=0.0)[0]
            wanted = target.submit([3])[0]
        wanted.outcome()

    assert isinstance(expired.outcome(), DeadlineExceeded)
    assert [("image", [3])] == engine.batches[1:]


def test_lost_device_answers_everything_and_takes_nothing_more() -> None:
    """A broken engine fails what runs and what is queued with a retryable error, and turns unhealthy."""
    engine = ScriptedEngine()
    with running(engine, max_batch=1) as target:
        with target.busy(engine):
            waiting = [*target.submit([FATAL]), *target.submit([1])]
        outcomes = [pending.outcome() for pending in waiting]

        assert [NotReady, NotReady] == [type(outcome) for outcome in outcomes]
        assert not target.batcher.healthy
        with pytest.raises(NotReady):
            target.submit([1])


def test_close_fails_what_is_queued() -> None:
    """Closing finishes the running pass and answers the rest."""
    engine = ScriptedEngine()
    with running(engine) as target:
        engine.gate.clear()
        taken = target.submit([1])[0]
        assert engine.entered.acquire(timeout=SOON_S)
        queued = target.submit([2])[0]
        closer = threading.Thread(target=target.batcher.close)
        closer.start()
        outcome = queued.outcome()
        engine.gate.set()
        closer.join(SOON_S)

    assert isinstance(outcome, NotReady)
    assert 1 == taken.value()


def test_out_of_memory_halves_and_is_remembered() -> None:
    """A batch that does not fit fails no item, and the next ones are made as small as the one that did."""
    engine = ScriptedEngine()
    engine.room = 3
    with running(engine, max_batch=8) as target:
        with target.busy(engine):
            first = target.submit(range(1, 9))
        results = [pending.value() for pending in first]
        sizes_of_first = [len(values) for _, values in engine.batches[1:]]
        with target.busy(engine):
            second = target.submit(range(1, 5))
        results += [pending.value() for pending in second]

    assert [*range(1, 9), *range(1, 5)] == results
    assert [8, 4, 2, 2, 4, 2, 2] == sizes_of_first
    # The one that keeps the device busy, and then two halves: four were not tried again.
    assert [1, 2, 2] == [len(values) for _, values in engine.batches[-3:]]


def test_out_of_memory_is_remembered_per_modality() -> None:
    """Texts are not made smaller because images did not fit."""
    engine = ScriptedEngine()
    engine.room = 2
    with running(engine, max_batch=4) as target:
        with target.busy(engine):
            target.submit([1, 2, 3, 4])
            texts = target.submit([5, 6, 7, 8], Modality.TEXT)
        for pending in texts:
            pending.outcome()

    assert [4, 2, 2] == [len(values) for kind, values in engine.batches if kind == "text"]


def test_single_item_out_of_memory_is_its_own_error() -> None:
    """There is nothing left to halve."""
    engine = ScriptedEngine()
    with running(engine) as target:
        target.submit([1])[0].value()
        engine.room = 0
        outcome = target.submit([2])[0].outcome()

    assert isinstance(outcome, InferenceFailed)


def test_device_that_fails_everything_is_lost() -> None:
    """Errors of an unknown kind, one after another, and an item that was right before fails too: a lost device."""
    engine = ScriptedEngine()
    with running(engine) as target:
        target.submit([1])[0].value()
        engine.sick = True
        for number in range(SUSPICIOUS_FAILURES):
            assert not isinstance(target.submit([number])[0].outcome(), Encoded)
        for thread in target.batcher._threads:
            thread.join(SOON_S)

        assert not target.batcher.healthy


def test_many_poisoned_items_are_no_lost_device() -> None:
    """As long as an item that was right before still is, the items are at fault."""
    engine = ScriptedEngine()
    with running(engine) as target:
        target.submit([1])[0].value()
        outcomes = [target.submit([POISON])[0].outcome() for _ in range(3 * SUSPICIOUS_FAILURES)]
        right = target.submit([2])[0].value()

    assert {InferenceFailed} == {type(outcome) for outcome in outcomes}
    assert 2 == right


def test_abandoned_items_are_not_run() -> None:
    """Nobody waits for a request whose caller has gone."""
    engine = ScriptedEngine()
    cancellation = Cancellation()
    with running(engine) as target:
        with target.busy(engine):
            gone = target.submit([1], cancellation=cancellation)[0]
            wanted = target.submit([2])[0]
            cancellation.cancel()
        wanted.outcome()

    assert isinstance(gone.outcome(), DeadlineExceeded)
    assert [("image", [2])] == engine.batches[1:]


def test_given_up_device_leaves_nobody_waiting() -> None:
    """A stuck pass: what runs and what is queued is answered at once, and the late rows change nothing."""
    engine = ScriptedEngine()
    with running(engine, max_batch=1) as target:
        engine.gate.clear()
        waiting = [*target.submit([1]), *target.submit([2])]
        assert engine.entered.acquire(timeout=SOON_S)
        [serial] = target.batcher.pass_serials()
        target.batcher.fail()
        outcomes = [pending.outcome() for pending in waiting]
        engine.gate.set()
        for thread in target.batcher._threads:
            thread.join(SOON_S)

        assert serial is not None
        assert [NotReady, NotReady] == [type(outcome) for outcome in outcomes]
        assert not target.batcher.healthy
        assert [NotReady, NotReady] == [type(pending.outcome()) for pending in waiting]


def test_passes_are_numbered_while_they_run() -> None:
    """Each has another number, so that a pass that stands still can be told from many short ones."""
    engine = ScriptedEngine()
    with running(engine, max_batch=1) as target:
        engine.gate.clear()
        target.submit([1])
        assert engine.entered.acquire(timeout=SOON_S)
        [first] = target.batcher.pass_serials()
        engine.gate.set()
        target.submit([2])[0].value()
        engine.gate.clear()
        target.submit([3])
        assert engine.entered.acquire(timeout=SOON_S)
        assert engine.entered.acquire(timeout=SOON_S)
        [third] = target.batcher.pass_serials()
        engine.gate.set()
        target.passes_end()
        [idle] = target.batcher.pass_serials()

    assert None not in (first, third)
    assert first != third
    assert idle is None


def test_limit_grows_back_after_many_full_batches() -> None:
    """The memory may have been another process's, and nobody restarts a service for that."""
    engine = ScriptedEngine()
    engine.room = 1
    with running(engine, max_batch=2, max_items=10_000) as target:
        with target.busy(engine):
            target.submit([1, 2])
        for _ in range(GROW_AFTER_BATCHES):
            target.submit([1])[0].value()
        engine.room = 2
        with target.busy(engine):
            waiting = target.submit([3, 4])
        for pending in waiting:
            pending.value()

    assert ("image", [3, 4]) == engine.batches[-1]


def test_done_work_is_counted_per_pass_and_item() -> None:
    """Two batches of images and one text: passes, items and waiting time; what failed counts as nothing done."""
    engine = ScriptedEngine()
    with running(engine, max_batch=4) as target:
        with target.busy(engine):
            waiting = [*target.submit([1, 2, 3, 4, 5, 6, 7, 8]), *target.submit([9], Modality.TEXT)]
        [poisoned] = target.submit([POISON])
        for pending in waiting:
            pending.value()
        assert isinstance(poisoned.outcome(), InferenceFailed)
        target.passes_end()
        images, texts = target.batcher.done[Modality.IMAGE], target.batcher.done[Modality.TEXT]

    # With the one item that kept the device busy.
    assert ((3, 9), (1, 1)) == ((images.passes, images.items), (texts.passes, texts.items))
    assert [1, 0, 2, 0] == sizes_of(target, "image")[:4]
    assert images.queue_s > 0
    assert images.forward_s > 0


def sizes_of(target: Running, modality: str) -> list[int]:
    """How many passes there were in each bucket of sizes: one item, two, up to four, up to eight, and so on."""
    [sizes] = [
        one.value
        for one in target.batcher.readings()
        if one.metric is metrics.BATCH_SIZE and one.labels == (modality,) and isinstance(one.value, Distribution)
    ]
    return sizes.counts


def test_tokens_are_told_from_what_they_are_padded_with() -> None:
    """Each text of a pass is made as wide as the widest."""
    engine = ScriptedEngine()
    group = Group(Deadline.after(SOON_S))
    texts = [
        Item(Modality.TEXT, group, np.asarray(value), width=width, tokens=tokens)
        for value, width, tokens in ((1, 8, 3), (2, 16, 10))
    ]
    with running(engine, max_batch=4) as target, target.scheduler.entered(texts):
        with target.busy(engine):
            target.scheduler.add_texts(texts)
        assert group.wait()
        target.passes_end()
        tally = target.batcher.done[Modality.TEXT]

    assert (1, 3 + 10, 2 * 16 - 13) == (tally.passes, tally.tokens, tally.padding)


def test_passes_without_memory_are_counted_by_device() -> None:
    """Every one that is halved, and a single item's too."""
    engine = ScriptedEngine()
    engine.room = 1
    with running(engine, max_batch=4) as target:
        with target.busy(engine):
            waiting = target.submit([1, 2, 3, 4])
        values = [pending.value() for pending in waiting]
        target.passes_end()
        short = {one.labels: one.value for one in target.batcher.readings() if one.metric is metrics.OUT_OF_MEMORY}

    assert [1, 2, 3, 4] == values
    # Of four, and of each half.
    assert {("cpu",): 3} == short
