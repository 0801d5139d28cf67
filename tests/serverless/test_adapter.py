"""The envelope of jobs, around a scripted service: nothing but results and errors as JSON text comes out."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.access import Credentials
from core.answered import Answered, Counting, Embeds
from core.api import Api, Call
from core.deadline import Cancellation, Deadline
from core.errors import DownloadError
from core.service import Service, Status
from serverless.adapter import JobHandler
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT

SOON_S = 30.0


class ScriptedService:
    """Stands where a Service stands: records paths and answers with `run`."""

    def __init__(self, run: Callable[[], Any] = dict, status: Status = Status.OK) -> None:
        self.status = status
        self.paths: list[str] = []
        self.deadlines: list[Deadline] = []
        self.beats = self.rests = 0
        self._run = run

    @contextmanager
    def admitted(self) -> Iterator[Api]:
        yield cast("Api", self)

    def deadline(self, timeout_ms: int | None, cancellation: Cancellation) -> Deadline:
        return Deadline.after(SOON_S if timeout_ms is None else timeout_ms / 1000, cancellation)

    def beat(self) -> None:
        self.beats += 1

    def rest(self) -> None:
        self.rests += 1

    def prepare(
        self,
        path: str,
        _members: Mapping[str, Any],
        *,
        request_id: str,
        deadline: Deadline,
        credentials: Credentials,
    ) -> Call:
        self.paths.append(path)
        self.deadlines.append(deadline)
        return Call(request_id, "default", Counting(cast("Embeds", None), Answered(), "default"), self._run)

    def health(self) -> dict[str, Any]:
        return {"status": self.status.value}


def handle(service: ScriptedService, job_input: object, *, max_output_bytes: int = 1_000_000) -> dict[str, Any]:
    handler = JobHandler(cast("Service", service), concurrency=2, max_output_bytes=max_output_bytes)
    try:
        return asyncio.run(handler.handle({"id": "job-1", "input": job_input}))
    finally:
        handler.close()


def error_of(output: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(output["error"], str)
    error: dict[str, Any] = json.loads(output["error"])
    return error


@pytest.mark.parametrize(
    ("job_input", "path"),
    [
        pytest.param({"path": EMBED_TEXT, "image_url": "x"}, EMBED_TEXT, id="named"),
        pytest.param({"items": [], "text": "x", "image_url": "x"}, EMBED_IMAGE_BATCH, id="items"),
        pytest.param({"text": "x", "image_url": "x"}, EMBED_TEXT, id="text"),
        pytest.param({"image_url": "x"}, EMBED_IMAGE, id="old single image"),
        pytest.param({"path": 7, "image_url": "x"}, EMBED_IMAGE, id="path of a wrong type"),
    ],
)
def test_path_is_named_or_inferred(job_input: dict[str, Any], path: str) -> None:
    """A named path wins; old clients name none."""
    service = ScriptedService()

    handle(service, job_input)

    assert [path] == service.paths


@pytest.mark.parametrize(
    ("job_input", "expected"),
    [
        pytest.param({"image_url": "x"}, {"model_name": "clip", "model": "clip"}, id="old single image"),
        pytest.param({"items": []}, {"model_name": "clip", "model": "clip"}, id="old batch"),
        pytest.param({"text": "x"}, {"model_name": "clip", "model": "clip"}, id="old text"),
        pytest.param({"path": EMBED_TEXT, "text": "x"}, {"model_name": "clip"}, id="job that names its path"),
    ],
)
def test_old_style_job_answers_the_old_name_of_the_model(job_input: dict[str, Any], expected: dict[str, str]) -> None:
    """Who names no path also reads `model`; everybody else gets the contract's members alone."""
    assert expected == handle(ScriptedService(lambda: {"model_name": "clip"}), job_input)


def test_old_style_job_that_fails_has_no_model() -> None:
    """A failure is an error and nothing else."""

    def fail() -> None:
        raise DownloadError("gone", retryable=True)

    assert {"error"} == handle(ScriptedService(fail), {"image_url": "x"}).keys()


@pytest.mark.parametrize(
    "job_input",
    [
        pytest.param({}, id="empty"),
        pytest.param({"url": "x", "request_id": "a"}, id="none that is known"),
        pytest.param({"path": None}, id="path of no type"),
    ],
)
def test_job_without_a_known_field_is_told_which_there_are(job_input: dict[str, Any]) -> None:
    """The message names what decides the operation; nothing was looked up."""
    service = ScriptedService()
    error = error_of(handle(service, job_input))

    assert ("VALIDATION_ERROR", False, []) == (error["code"], error["retryable"], service.paths)
    assert [] == [name for name in ("path", "items", "text", "image_url") if name not in error["message"]]


def test_output_is_plain_json_values() -> None:
    """numpy does not reach the SDK, which could not send it."""
    output = handle(ScriptedService(lambda: {"embedding": np.ones(2, dtype=np.float32)}), {"text": "x"})

    assert {"embedding": [1.0, 1.0]} == output


def test_known_error_is_json_text() -> None:
    """The caller parses code and retryable from the job's error."""

    def fail() -> None:
        raise DownloadError("gone", retryable=True)

    error = error_of(handle(ScriptedService(fail), {"text": "x", "request_id": "query-1"}))

    assert {"code": "DOWNLOAD_ERROR", "message": "gone", "request_id": "query-1", "retryable": True} == error


def test_unknown_error_is_a_constant() -> None:
    """What nobody foresaw is INTERNAL, without a word of what it was."""

    def fail() -> None:
        raise ZeroDivisionError("secret detail")

    error = error_of(handle(ScriptedService(fail), {"text": "x"}))

    assert ("INTERNAL", "internal error", True) == (error["code"], error["message"], error["retryable"])


def test_oversized_output_is_a_clear_error() -> None:
    """The platform would drop it; the caller is told to send fewer items instead."""
    service = ScriptedService(lambda: {"embedding": np.zeros(1000, dtype=np.float32)})

    assert "BATCH_TOO_LARGE" == error_of(handle(service, {"items": []}, max_output_bytes=1000))["code"]


def test_health_needs_nothing_else() -> None:
    """A health job is answered while nothing is admitted."""
    assert {"status": "loading"} == handle(ScriptedService(status=Status.LOADING), {"path": "/health"})


def test_broken_device_asks_for_a_fresh_worker() -> None:
    """The job is answered, and the platform replaces the worker."""
    output = handle(ScriptedService(status=Status.UNHEALTHY), {"path": "/health"})

    assert {"status": "unhealthy", "refresh_worker": True} == output


def test_cancelled_job_ends_as_cancelled() -> None:
    """The SDK must see the cancellation, or it would report a failure of ours."""

    async def cancel() -> None:
        released = asyncio.Event()
        service = ScriptedService(lambda: asyncio.run_coroutine_threadsafe(released.wait(), loop).result() and {})
        loop = asyncio.get_running_loop()
        handler = JobHandler(cast("Service", service), concurrency=1)
        task = asyncio.create_task(handler.handle({"id": "job-1", "input": {"text": "x"}}))
        while not service.paths:
            await asyncio.sleep(0)
        task.cancel()
        try:
            with pytest.raises(asyncio.CancelledError):
                await task
            abandoned = service.deadlines[0].expired
        finally:
            released.set()
            await asyncio.to_thread(handler.close)
        assert abandoned

    asyncio.run(cancel())


def test_timeout_of_a_job_is_its_deadline() -> None:
    """`timeout_ms` of the input shortens the job's time."""
    service = ScriptedService()

    handle(service, {"text": "x", "timeout_ms": 1})

    assert service.deadlines[0].remaining_s() < 1.0


@pytest.mark.parametrize("timeout_ms", [0, -1, 1.5, "soon", True, [], 10**30])
def test_wrong_timeout_of_a_job(timeout_ms: object) -> None:
    """A wrong value is refused with the member's name."""
    error = error_of(handle(ScriptedService(), {"text": "x", "timeout_ms": timeout_ms}))

    assert "VALIDATION_ERROR" == error["code"]
    assert "timeout_ms" in error["message"]


def test_loop_beats_while_jobs_run_and_rests_after() -> None:
    """The watchdog expects a sign of life exactly while there is a job."""
    service = ScriptedService()

    handle(service, {"text": "x"})

    assert (1, 1) == (service.beats, service.rests)


ANY_INPUT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "items", "text", "image_url", "request_id"]), children)
    ),
    max_leaves=6,
)


@given(ANY_INPUT)
def test_any_input_is_answered(job_input: object) -> None:
    """Whatever a job holds: an output that can be serialised, never an exception."""
    json.dumps(handle(ScriptedService(), job_input))
