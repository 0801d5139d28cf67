"""The spans of a request, in OpenTelemetry's own terms."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from core.batching.items import Modality
from core.spans import Arrival, Tracing
from core.tracing import Progress, Stage
from shared_tracing.exporting import Exporter

TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01"}


class Kept:
    """Spans that are kept instead of sent."""

    def __init__(self) -> None:
        self._receiver = InMemorySpanExporter()
        self.tracing = Tracing(
            Exporter(SimpleSpanProcessor(self._receiver), service="tested", distribution="clip-embedding-service")
        )

    def of(self, name: str) -> Any:  # noqa: ANN401 - a finished span, whose parts its types call optional
        [span] = [span for span in self._receiver.get_finished_spans() if span.name == name]
        return span


def arrival(sent: Mapping[str, object], *, started_s: float | None = None) -> Arrival:
    at_s = time.monotonic() if started_s is None else started_s
    return Arrival("POST /a", "server", at_s, sent, {"http.route": "/a"})


def test_request_is_a_child_of_its_caller() -> None:
    """Its id is the trace's, which the log names too."""
    kept = Kept()
    span = kept.tracing.begin(arrival(SAMPLED))
    assert span is not None
    span.end({}, code=None, is_fault=False)

    made = kept.of("POST /a")
    assert TRACE_ID == span.trace_id
    assert (TRACE_ID, CALLER_ID) == (f"{made.context.trace_id:032x}", f"{made.parent.span_id:016x}")
    assert SpanKind.SERVER == made.kind


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"traceparent": 7}, id="no text"),
        pytest.param({"traceparent": "00-0-0-01"}, id="wrong"),
        pytest.param({**SAMPLED, "tracestate": "x" * 1000}, id="too long"),
    ],
)
def test_what_is_no_context_begins_a_trace(sent: Mapping[str, object]) -> None:
    """As if nothing had been sent."""
    kept = Kept()
    span = kept.tracing.begin(arrival(sent))
    assert span is not None
    span.end({}, code=None, is_fault=False)

    assert kept.of("POST /a").parent is None


@given(st.dictionaries(st.sampled_from(["traceparent", "tracestate"]), st.text() | st.integers() | st.none()))
def test_any_context_is_taken_or_not(sent: Mapping[str, object]) -> None:
    """Strangers send it, before any signature is looked at: nothing is raised."""
    Kept().tracing.begin(arrival(sent))


def test_caller_that_does_not_sample_is_heeded() -> None:
    """Its request costs no spans."""
    assert Kept().tracing.begin(arrival({"traceparent": f"00-{TRACE_ID}-{CALLER_ID}-00"})) is None


def test_stages_are_children_with_the_times_they_had() -> None:
    """A stage is told when it is over, and lies where it was."""
    kept, now_s = Kept(), time.monotonic()
    span = kept.tracing.begin(arrival({}, started_s=now_s - 10))
    assert span is not None
    stages = [Stage("download", now_s - 9, now_s - 7, 3)]
    span.note(Progress(Modality.IMAGE, 4, 1, stages, [(2, "INVALID_IMAGE")]))
    span.end({"http.response.status_code": 200}, code=None, is_fault=False)

    request, download = kept.of("POST /a"), kept.of("download")
    [event] = request.events
    assert request.context.span_id == download.parent.span_id
    assert pytest.approx(1.0, abs=1e-3) == (download.start_time - request.start_time) / 1e9
    assert pytest.approx(2.0, abs=1e-3) == (download.end_time - download.start_time) / 1e9
    assert {"clip.modality": "image", "clip.items": 3} == dict(download.attributes)
    assert {"clip.modality": "image", "clip.position": 2, "error.type": "INVALID_IMAGE"} == dict(event.attributes)
    assert (4, 1) == (request.attributes["clip.image.items"], request.attributes["clip.image.cached_items"])


@pytest.mark.parametrize(
    ("code", "is_fault", "status"),
    [
        pytest.param(None, False, StatusCode.UNSET, id="answered"),
        pytest.param("AUTH_FAILED", False, StatusCode.UNSET, id="the caller's fault"),
        pytest.param("INTERNAL", True, StatusCode.ERROR, id="ours"),
    ],
)
def test_error_is_told_by_its_code(code: str | None, status: StatusCode, *, is_fault: bool) -> None:
    """Only what the service is to blame for makes the span an error, as the conventions for HTTP have it."""
    kept = Kept()
    span = kept.tracing.begin(arrival({}))
    assert span is not None
    span.end({}, code=code, is_fault=is_fault)

    made = kept.of("POST /a")
    assert (code, status) == (made.attributes.get("error.type"), made.status.status_code)
