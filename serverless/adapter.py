"""Jobs in, results out: the envelope of RunPod around the operation table. Does not import the SDK.

A job's failure is `{"error": <JSON text>}`. Raising instead would send traceback and host name to the caller, and a
result that cannot be serialised, or is too large for the platform, would be lost without a word.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from core.access import NONE, Credentials
from core.api import Api, errors_of
from core.deadline import Cancellation, Deadline, parse_timeout_ms
from core.errors import BatchTooLarge, InternalError, InvalidJson, ServiceError, ValidationFailed
from core.service import Service, Status
from core.wire.openai import MODELS
from core.wire.requests import new_request_id, request_id_of
from core.wire.responses import Body, error_body
from core.wire.strict_json import encode
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, TIMEOUT_MEMBER

logger = logging.getLogger(__name__)

HEALTH = "/health"

# The platform carries 20 MB; what lies around the output in the job's own JSON gets the rest.
MAX_OUTPUT_BYTES = 19_000_000

# How long the caller will wait, in milliseconds from when the worker takes the job; capped by REQUEST_TIMEOUT_S.

_BEAT_S = 1.0

# Requests to /openai/… of an endpoint come as these two members.
_OPENAI_ROUTE, _OPENAI_INPUT = "openai_route", "openai_input"

# What old clients send names no path: the first of these members decides.
_PATH_OF_MEMBER = {"items": EMBED_IMAGE_BATCH, "text": EMBED_TEXT, "image_url": EMBED_IMAGE}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a job asks for. `is_old_style`: it names no path, and that was inferred."""

    path: str
    members: Mapping[str, Any]
    credentials: Credentials = NONE
    is_old_style: bool = False


@dataclass(slots=True)
class _Exchange:
    """What is known of a job when it is answered."""

    started_s: float
    request_id: str
    client: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    error: ServiceError | None = None


class JobHandler:
    """One coroutine per job; `concurrency` jobs run at once, and share the batches of the model."""

    def __init__(self, service: Service, *, concurrency: int, max_output_bytes: int = MAX_OUTPUT_BYTES) -> None:
        self._service = service
        self._max_output_bytes = max_output_bytes
        self._jobs = 0
        self._next_beat: asyncio.TimerHandle | None = None
        # Not the loop's default executor: asyncio uses that for its own lookups, and sizes it by the host's cores.
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="job")

    async def handle(self, job: Mapping[str, Any]) -> Body:
        """Return the job's output, or an object with `error`. Raises nothing but `CancelledError`."""
        self._jobs += 1
        if self._jobs == 1:
            self._beat()
        try:
            return await self._handle(job)
        finally:
            self._jobs -= 1
            if self._jobs == 0:
                self._rest()

    async def _handle(self, job: Mapping[str, Any]) -> Body:
        members = job.get("input")
        request_id = request_id_of(members) if isinstance(members, Mapping) else new_request_id()
        exchange = _Exchange(time.monotonic(), request_id)
        asked: _Asked | None = None
        try:
            asked = _asked(members)
            output = await self._answer(asked, exchange)
        except ServiceError as refused:
            exchange.error = refused
        except Exception:
            logger.exception("a job failed", extra={"request_id": request_id})
            exchange.error = InternalError()
        _log(job, exchange)
        if exchange.error is not None:
            write = errors_of(asked.path) if asked else error_body
            output = {"error": json.dumps(write(exchange.error, request_id)["error"])}
        if self._service.status is Status.UNHEALTHY:
            # A broken device does not recover: the platform replaces the worker after this job.
            output["refresh_worker"] = True
        return output

    def close(self) -> None:
        """Wait for the jobs that run."""
        self._threads.shutdown()

    async def _answer(self, asked: _Asked, exchange: _Exchange) -> Body:
        if asked.path == HEALTH:
            return self._service.health()
        cancellation = Cancellation()
        deadline = self._service.deadline(
            parse_timeout_ms(asked.members.get(TIMEOUT_MEMBER), TIMEOUT_MEMBER), cancellation
        )
        with self._service.admitted() as api:
            if asked.path == MODELS:
                return api.models(asked.credentials)
            try:
                body = await self._on_thread(lambda: self._run(api, asked, exchange, deadline))
            except asyncio.CancelledError:
                # The platform stopped the job: what it has not begun is not begun any more.
                cancellation.cancel()
                raise
        return _with_old_members(body) if asked.is_old_style else body

    def _run(self, api: Api, asked: _Asked, exchange: _Exchange, deadline: Deadline) -> Body:
        call = api.prepare(
            asked.path,
            asked.members,
            request_id=exchange.request_id,
            deadline=deadline,
            credentials=asked.credentials,
        )
        exchange.client = call.client
        try:
            return self._checked(call.run())
        finally:
            exchange.timings = call.counting.timings

    def _beat(self) -> None:
        """Tell the watchdog that the loop is not stuck, again and again while jobs run."""
        self._service.beat()
        self._next_beat = asyncio.get_running_loop().call_later(_BEAT_S, self._beat)

    def _rest(self) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()
        self._service.rest()

    async def _on_thread(self, work: Callable[[], Body]) -> Body:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _checked(self, body: Body) -> Body:
        """Turn the body into plain JSON values, as the SDK needs them. Raises `BatchTooLarge`."""
        encoded = encode(body)
        if len(encoded) > self._max_output_bytes:
            raise BatchTooLarge("the answer is larger than a job's output may be: send fewer items")
        plain: Body = json.loads(encoded)
        return plain


def _asked(members: object) -> _Asked:
    """Raises `InvalidJson` and `ValidationFailed`."""
    if not isinstance(members, Mapping):
        raise InvalidJson("the job's input is not an object")
    route, given = members.get(_OPENAI_ROUTE), members.get(_OPENAI_INPUT)
    if isinstance(route, str):
        # The platform's own key has let the caller in.
        return _Asked(route, given if isinstance(given, Mapping) else {}, Credentials(trusted=True))
    path = members.get("path")
    if isinstance(path, str):
        return _Asked(path, members)
    for member, inferred in _PATH_OF_MEMBER.items():
        if member in members:
            return _Asked(inferred, members, is_old_style=True)
    raise ValidationFailed(f"the job's input has neither path nor any of {', '.join(_PATH_OF_MEMBER)}")


def _with_old_members(body: Body) -> Body:
    """What old clients read beside the contract's members: the model's name under its old name."""
    return body | {"model": body["model_name"]} if "model_name" in body else body


def _log(job: Mapping[str, Any], exchange: _Exchange) -> None:
    """With the milliseconds of each stage, of the item that was longest in it: here the log is all that there is."""
    fields = {
        **{name: took for name, took in exchange.timings.items() if name != "total_ms"},
        "job_id": job.get("id"),
        "request_id": exchange.request_id,
        "client": exchange.client,
        "code": exchange.error.code if exchange.error else None,
        "duration_ms": round((time.monotonic() - exchange.started_s) * 1000, 1),
    }
    logger.info("job", extra=fields)
