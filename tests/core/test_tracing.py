"""What a request tells its trace: stages from the times that are measured anyway, and only where it has a trace."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.batching.items import Encoded, Group, Modality
from core.deadline import Deadline
from core.errors import DownloadError, ServiceError
from core.images.job import ImageJob
from core.tracing import Progress, Stage, note_images, note_texts, within

SOON_S = 30.0
VECTOR = np.ones(4, dtype=np.float32)


class Told:
    """A trace that keeps what it is told."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []

    def note(self, progress: Progress) -> None:
        self.progress.append(progress)

    @property
    def stages(self) -> dict[str, Stage]:
        [progress] = self.progress
        return {stage.name: stage for stage in progress.stages}


def group_that_came(seconds_ago: float) -> Group:
    group = Group(Deadline.after(SOON_S))
    group.arrived_s -= seconds_ago
    return group


def image_at(arrived_s: float, download_s: float, decode_s: float) -> ImageJob:
    """Its download and its decode begin so many seconds after the request, and take half a second each."""
    job = ImageJob("http://secret/", Deadline.after(SOON_S))
    job.download_began_s, job.download_ms = arrived_s + download_s, 500.0
    job.decode_began_s, job.decode_ms = arrived_s + decode_s, 500.0
    return job


def row_at(began_s: float, *, cached: bool = False) -> Encoded:
    return Encoded(VECTOR, 2.0, began_s, 250.0, cached)


def test_stages_of_images_reach_from_the_first_to_the_last() -> None:
    """Two images: each stage begins with the first that begins it, and ends with the last."""
    group, told = group_that_came(10.0), Told()
    at_s = group.arrived_s
    jobs = [image_at(at_s, 0.0, 1.0), image_at(at_s, 1.0, 2.0)]
    rows: list[Encoded | ServiceError] = [row_at(at_s + 3.0), row_at(at_s + 4.0)]
    within(told, lambda: note_images(group, jobs, rows))

    assert {
        "download": Stage("download", at_s, at_s + 1.5, 2),
        "decode": Stage("decode", at_s + 1.0, at_s + 2.5, 2),
        "queue": Stage("queue", at_s + 1.5, at_s + 4.0, 2),
        "forward": Stage("forward", at_s + 3.0, at_s + 4.25, 2),
    } == told.stages


def test_stages_of_texts_are_the_queue_and_the_pass() -> None:
    """A text waits from its request's arrival on."""
    group, told = group_that_came(10.0), Told()
    at_s = group.arrived_s
    within(told, lambda: note_texts(group, [row_at(at_s + 1.0)]))

    assert [Modality.TEXT] == [progress.modality for progress in told.progress]
    assert {
        "queue": Stage("queue", at_s, at_s + 1.0, 1),
        "forward": Stage("forward", at_s + 1.0, at_s + 1.25, 1),
    } == told.stages


def test_what_was_not_done_has_no_stage() -> None:
    """A row that was there takes no pass, an image that was sent no download, and one that failed tells its code."""
    group, told = group_that_came(10.0), Told()
    sent = image_at(group.arrived_s, 0.0, 1.0)
    sent.download_began_s = 0.0
    failed = ImageJob("http://secret/", group.deadline)
    rows: list[Encoded | ServiceError] = [
        row_at(group.arrived_s + 3.0, cached=True),
        DownloadError("no", retryable=False),
    ]
    within(told, lambda: note_images(group, [sent, failed], rows))

    [progress] = told.progress
    assert {"decode"} == set(told.stages)
    assert (2, 1, [(1, "DOWNLOAD_ERROR")]) == (progress.items, progress.cached, progress.failures)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_stages_lie_within_the_request(
    download_began_s: float, download_ms: float, decode_began_s: float, decode_ms: float
) -> None:
    """Whatever an image process says of its times: a span of the year 5000 would lose a whole batch of spans."""
    group, told = group_that_came(10.0), Told()
    job = ImageJob("http://secret/", group.deadline)
    job.download_began_s, job.download_ms = download_began_s, download_ms
    job.decode_began_s, job.decode_ms = decode_began_s, decode_ms
    within(told, lambda: note_images(group, [job], [row_at(group.arrived_s + 3.0)]))

    for stage in told.stages.values():
        assert math.isfinite(stage.began_s)
        assert group.arrived_s <= stage.began_s <= stage.ended_s <= group.arrived_s + 10.0 + SOON_S


@pytest.mark.parametrize("fails", [pytest.param(False, id="answered"), pytest.param(True, id="failed")])
def test_trace_ends_with_its_request(*, fails: bool) -> None:
    """The thread serves others after it, who have no trace or one of their own."""
    told = Told()

    def call() -> None:
        if fails:
            raise DownloadError("no", retryable=False)

    if fails:
        with pytest.raises(DownloadError):
            within(told, call)
    else:
        within(told, call)
    note_texts(group_that_came(10.0), [row_at(0.0)])

    assert [] == told.progress
