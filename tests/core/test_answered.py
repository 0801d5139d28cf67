"""What is counted of the items of a request, and in which stages each has been."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from core import metrics
from core.answered import Answered, Counting, Embeds, Result
from core.batching.items import Modality
from core.deadline import Cancellation, Deadline
from core.embedding import Embedding
from core.errors import DeadlineExceeded, InvalidImage, Overloaded
from core.metrics import Distribution

VECTOR = np.ones(2, dtype=np.float32)
TIMINGS = {"download_ms": 20.0, "decode_ms": 3.0, "queue_ms": 0.0, "inference_ms": 400.0, "total_ms": 423.0}


class ScriptedEmbedder:
    """Gives what it was told to, or raises it."""

    def __init__(self, results: Sequence[Result] | Exception) -> None:
        self._results = results

    def embed_images(self, _wanted: object, _deadline: object) -> list[Result]:
        if isinstance(self._results, Exception):
            raise self._results
        return list(self._results)

    embed_texts = embed_images


def counting(answered: Answered, results: Sequence[Result] | Exception) -> Counting:
    return Counting(cast("Embeds", ScriptedEmbedder(results)), answered, "indexer")


def items_of(answered: Answered) -> dict[tuple[str, ...], Any]:
    return {one.labels: one.value for one in answered.readings() if one.metric is metrics.ITEMS}


def times_in(answered: Answered) -> dict[tuple[str, ...], int]:
    """How often each stage was gone through, of those that were."""
    stages = {one.labels: one.value for one in answered.readings() if one.metric is metrics.STAGE_SECONDS}
    counts = {labels: sum(value.counts) for labels, value in stages.items() if isinstance(value, Distribution)}
    return {labels: count for labels, count in counts.items() if count}


def test_each_item_is_counted_by_what_came_of_it() -> None:
    """Two vectors and an error of one batch; the client is the one that asked."""
    answered = Answered()
    results: list[Result] = [Embedding(VECTOR, TIMINGS), InvalidImage(), Embedding(VECTOR, TIMINGS)]
    counting(answered, results).embed_images([cast("Any", None)] * 3, Deadline.after(1.0))

    assert {("image", "indexer", "OK"): 2, ("image", "indexer", "INVALID_IMAGE"): 1} == items_of(answered)


def test_what_nobody_waits_for_is_no_want_of_time() -> None:
    """Of a batch whose client has gone: what was given up is told from what had failed before."""
    answered, cancellation = Answered(), Cancellation()
    cancellation.cancel()
    results: list[Result] = [InvalidImage(), DeadlineExceeded()]
    counting(answered, results).embed_images([cast("Any", None)] * 2, Deadline.after(1.0, cancellation))
    counting(answered, [DeadlineExceeded()]).embed_images([cast("Any", None)], Deadline.after(0.0))

    assert {
        ("image", "indexer", "INVALID_IMAGE"): 1,
        ("image", "indexer", metrics.GONE): 1,
        ("image", "indexer", "DEADLINE_EXCEEDED"): 1,
    } == items_of(answered)


@pytest.mark.parametrize(
    ("raised", "code"),
    [pytest.param(Overloaded(), "OVERLOADED", id="ours"), pytest.param(ZeroDivisionError(), "INTERNAL", id="unknown")],
)
def test_what_fails_as_a_whole_counts_for_each_item(raised: Exception, code: str) -> None:
    """The error goes on as it was."""
    answered = Answered()
    with pytest.raises(type(raised)):
        counting(answered, raised).embed_texts([cast("Any", None)] * 5, Deadline.after(1.0))

    assert {("text", "indexer", code): 5} == items_of(answered)
    assert {} == times_in(answered)


@pytest.mark.parametrize(
    ("embedding", "stages"),
    [
        pytest.param(Embedding(VECTOR, TIMINGS), ["decode", "download", "forward", "queue"], id="computed"),
        pytest.param(
            Embedding(VECTOR, {**TIMINGS, "decode_ms": 0.0, "queue_ms": 5.0}, cached=True),
            ["download"],
            id="cached: its file was fetched to know it",
        ),
        pytest.param(
            Embedding(VECTOR, {"decode_ms": 3.0, "queue_ms": 0.0, "inference_ms": 400.0}),
            ["decode", "forward", "queue"],
            id="sent: nothing was downloaded",
        ),
    ],
)
def test_stages_are_those_it_went_through(embedding: Embedding, stages: list[str]) -> None:
    """A stage that was skipped is not one that took no time."""
    answered = Answered()
    answered.note(Modality.IMAGE, "indexer", [embedding])

    assert {("image", stage): 1 for stage in stages} == dict(sorted(times_in(answered).items()))


def test_stages_are_noted_in_seconds() -> None:
    """As timings have them in milliseconds."""
    answered = Answered()
    answered.note(Modality.IMAGE, "indexer", [Embedding(VECTOR, TIMINGS)] * 2)
    totals = {
        one.labels: one.value.total
        for one in answered.readings()
        if one.metric is metrics.STAGE_SECONDS and isinstance(one.value, Distribution)
    }

    assert pytest.approx(0.8) == totals["image", "forward"]


def test_timings_of_a_request_are_the_longest_of_its_items() -> None:
    """Of images and texts together; they go through a stage side by side."""
    target = counting(Answered(), [Embedding(VECTOR, {"queue_ms": 7.0, "inference_ms": 1.0})])
    target.embed_texts([cast("Any", None)], Deadline.after(1.0))
    other = counting(Answered(), [Embedding(VECTOR, TIMINGS), InvalidImage(), Embedding(VECTOR, {"queue_ms": 5.0})])
    other.embed_images([cast("Any", None)] * 3, Deadline.after(1.0))

    assert {"queue_ms": 7.0, "inference_ms": 1.0} == target.timings
    assert {**TIMINGS, "queue_ms": 5.0} == other.timings
