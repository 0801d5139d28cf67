"""The serverless endpoint: the contract inside RunPod's REST API (docs.runpod.io, "Send API requests").

`runsync` answers with the result, or, after 90 s or what `wait` says, with the id of a job that still waits or runs;
that is polled until it ends, and cancelled when its time is up or nobody waits any more. A job's own failure is HTTP
200 with status FAILED.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from clip_embedding_client.backends.base import refusal, told_timeout_ms
from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import Exchange, Flow, Pause
from clip_embedding_client.errors import (
    MAX_ID_CHARACTERS,
    BackendMisconfigured,
    BackendTimeout,
    ClipClientError,
    ConnectionFailed,
    JobCancelled,
    JobFailed,
    JobTimedOut,
    OperationNotFound,
    RetryableError,
    WrongResponse,
    error_from_wire,
    printable,
)
from clip_embedding_client.signing.contract import HEALTH, TIMEOUT_MEMBER

logger = logging.getLogger(__name__)

# A result is kept for one minute: polls must come more often than that, whatever the backoff says.
_FIRST_POLL_S = 0.25
_LONGEST_POLL_S = 5.0
_POLL_GROWTH = 1.6
_POLL_TIMEOUT_S = 15.0
_CANCEL_TIMEOUT_S = 5.0
# Also when the caller's time is over already.
_LEAST_CANCEL_TIMEOUT_S = 1.0

# How long `runsync` waits for a result unless it is told otherwise, and at least; afterwards it names the job. What has
# no name cannot be cancelled, so a caller with less time asks for the name before that is over.
# An attempt of little more than the shortest wait ends without it. `run` would name the job at once, at the price of a
# pause and a poll for each answer, to callers who have the least time.
_USUAL_WAIT_S = 90.0
_SHORTEST_WAIT_S = 1.0
_MOST_TIME_TO_CANCEL_S = 5.0

# It becomes a part of a path, and of messages.
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

# Of a job that waits or runs RunPod has several words (IN_QUEUE, IN_PROGRESS, RUNNING), and may add more.
_ENDS = ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED")


def endpoint_url(base_url: str, endpoint_id: str) -> str:
    """Return what `/runsync` is added to. The id `.` is the SDK's local server, whose routes have no prefix."""
    return base_url if endpoint_id == "." else f"{base_url}/{endpoint_id}"


class ServerlessBackend:
    """`url` is that of the endpoint; `api_key` None is for a server on loopback that asks for none."""

    name = "runpod_serverless"

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout_s: float,
        clock: Clock,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s
        self._clock = clock
        self._jitter = jitter

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        """The handler counts its time from when it takes the job. One that has waited until then for a cold start is
        cancelled here when the caller's own time is over."""
        limit_s = min(timeout_s, self._timeout_s)
        members = {"path": path, **body, TIMEOUT_MEMBER: told_timeout_ms(limit_s)}
        return (yield from self._run(members, limit_s, is_all=limit_s == timeout_s))

    def health(self, *, timeout_s: float) -> Flow[object]:
        """A job like any other, unsigned: it wakes an endpoint that sleeps, and may wait for its cold start."""
        limit_s = min(timeout_s, self._timeout_s)
        return (yield from self._run({"path": HEALTH}, limit_s, is_all=limit_s == timeout_s))

    def close(self) -> None:
        """Nothing is held."""

    def _run(self, members: Mapping[str, Any], limit_s: float, *, is_all: bool) -> Flow[object]:
        """`is_all` says that the caller has no more time than that."""
        until_s = self._clock.monotonic() + limit_s
        job = yield from self._send("POST", _runsync(limit_s), timeout_s=limit_s, body={"input": members})
        if not _has_ended(job):
            job = yield from self._end_of(_job_id(job), until_s, limit_s, is_all=is_all)
        return _output(job)

    def _end_of(self, job_id: str, until_s: float, limit_s: float, *, is_all: bool) -> Flow[Mapping[str, Any]]:
        """The job when it has ended. Raises `BackendTimeout` before its time is up: it is cancelled in what is left."""
        try:
            job = yield from self._wait(job_id, until_s - _time_to_cancel_s(limit_s))
        except (GeneratorExit, JobFailed):
            # Nothing may be asked any more, or there is no job any more.
            raise
        except BaseException:
            # Polls are refused, a cancelled task, Ctrl-C: nobody waits for the job any more.
            yield from self._cancel(job_id, until_s)
            raise
        if job is not None:
            return job
        is_cancelled = yield from self._cancel(job_id, until_s)
        then = "was cancelled" if is_cancelled else "could not be cancelled"
        error = BackendTimeout(f"job {job_id} did not end within {limit_s:.1f} s and {then}")
        # What is left was for cancelling it: another job would cost money and end no sooner.
        error.is_last = is_all
        raise error

    def _wait(self, job_id: str, until_s: float) -> Flow[Mapping[str, Any] | None]:
        """Poll until the job ends; None when it does not in time."""
        pause_s = _FIRST_POLL_S
        while (left_s := until_s - self._clock.monotonic()) > 0:
            yield Pause(min(left_s, pause_s * self._jitter(0.75, 1.25)))
            pause_s = min(_LONGEST_POLL_S, pause_s * _POLL_GROWTH)
            job = yield from self._poll(job_id, max(until_s - self._clock.monotonic(), _FIRST_POLL_S))
            if job is not None and _has_ended(job):
                return job
        return None

    def _poll(self, job_id: str, left_s: float) -> Flow[Mapping[str, Any] | None]:
        """Return the job as it stands, or None if this poll failed: the job itself is not lost by that."""
        try:
            return (yield from self._send("GET", f"/status/{job_id}", timeout_s=min(left_s, _POLL_TIMEOUT_S)))
        except RetryableError as error:
            logger.debug("a poll failed", extra={"job_id": job_id, "code": error.code})
            return None
        except OperationNotFound as error:
            raise JobFailed(f"job {job_id} is not known any more: its result was lost") from error

    def _cancel(self, job_id: str, until_s: float) -> Flow[bool]:
        """Best effort, and whether it was done: a job that nobody waits for costs money."""
        try:
            yield from self._send_cancel(job_id, until_s)
        except ClipClientError as error:
            logger.warning("a job could not be cancelled", extra={"job_id": job_id, "code": error.code})
            return False
        return True

    def _send_cancel(self, job_id: str, until_s: float) -> Flow[None]:
        try:
            yield from self._send_cancel_once(job_id, until_s)
        except ConnectionFailed:
            # A connection that was kept may be closed at its other end just now. To cancel twice is to cancel once.
            yield from self._send_cancel_once(job_id, until_s)

    def _send_cancel_once(self, job_id: str, until_s: float) -> Flow[None]:
        left_s = max(_LEAST_CANCEL_TIMEOUT_S, until_s - self._clock.monotonic())
        yield from self._send("POST", f"/cancel/{job_id}", timeout_s=min(left_s, _CANCEL_TIMEOUT_S))

    def _send(
        self, method: str, route: str, *, timeout_s: float, body: Mapping[str, Any] | None = None
    ) -> Flow[Mapping[str, Any]]:
        undoes = route.startswith("/cancel/")
        answer = yield Exchange(method, self._url + route, timeout_s, body, self._headers, self.name, undoes)
        if answer.status in (401, 403):
            raise BackendMisconfigured(f"RunPod answered HTTP {answer.status}: check RUNPOD_API_KEY")
        if answer.status == 404 and route.startswith("/status/"):
            raise OperationNotFound("RunPod does not know this job")
        if answer.status != 200:
            raise refusal(answer, "RUNPOD_CLIP_ENDPOINT_ID and RUNPOD_BASE_URL")
        job = answer.json()
        if not isinstance(job, dict):
            raise WrongResponse("RunPod's answer is not a job")
        return job


def _runsync(limit_s: float) -> str:
    """The route that answers with the job's result or, some time before `limit_s` is over, with its id."""
    wait_s = max(_SHORTEST_WAIT_S, limit_s - _time_to_cancel_s(limit_s))
    return "/runsync" if wait_s >= _USUAL_WAIT_S else f"/runsync?wait={int(wait_s * 1000)}"


def _time_to_cancel_s(limit_s: float) -> float:
    return min(_MOST_TIME_TO_CANCEL_S, limit_s / 4)


def _job_id(job: Mapping[str, Any]) -> str:
    job_id = job.get("id")
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise WrongResponse("RunPod's answer names no job")
    return job_id


def _has_ended(job: Mapping[str, Any]) -> bool:
    status = job.get("status")
    if not isinstance(status, str):
        raise WrongResponse("RunPod's answer has no status")
    return status in _ENDS


def _named(job: Mapping[str, Any]) -> str:
    return f"job {printable(str(job.get('id')), MAX_ID_CHARACTERS)}"


def _output(job: Mapping[str, Any]) -> object:
    """Return the output of a job that has ended, or raise what its status says."""
    status = job.get("status")
    if status == "COMPLETED":
        # RunPod drops an output that is over its limit and still calls the job completed.
        if job.get("output") is None:
            raise WrongResponse("the job completed without an output")
        return job["output"]
    if status == "FAILED":
        raise _failure(job)
    if status == "TIMED_OUT":
        raise JobTimedOut(f"RunPod stopped {_named(job)} at its time limit")
    raise JobCancelled(f"{_named(job)} was cancelled")


def _failure(job: Mapping[str, Any]) -> ClipClientError:
    """The handler's own errors are JSON text. Anything else may be a traceback with URLs in it: it is not shown."""
    try:
        error = json.loads(str(job.get("error")))
    except (ValueError, RecursionError):
        error = None
    return error_from_wire(error) or JobFailed(f"{_named(job)} failed without a typed error: see its log")
