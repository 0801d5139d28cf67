"""A span for each job that asks for an operation, where traces are told; else the handler does not load this module."""

from collections.abc import Mapping
from typing import Any

from core.operations import OPERATIONS
from core.spans import Arrival, RequestSpan, Tracing


def begin(tracing: Tracing, path: str, job: Mapping[str, Any], *, started_s: float) -> RequestSpan | None:
    """The trace's context are members of the job's input, which no signature covers."""
    if path not in OPERATIONS:
        return None
    attributes = {"faas.invocation_id": str(job.get("id")), "url.path": path}
    return tracing.begin(Arrival(f"job {path}", "consumer", started_s, job["input"], attributes))


def end(span: RequestSpan, *, request_id: str, code: str | None) -> None:
    """Of a job that has been answered, or stopped: one that fails is a FAILED job, whoever is to blame."""
    span.end({"clip.request_id": request_id}, code=code, is_fault=code is not None)
