"""The spans of a request, in OpenTelemetry's own terms."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, TraceState

from core.batching.items import Modality
from core.spans import Arrival, RequestSpan, Tracing
from core.tracing import Progress, Stage
from shared_tracing.exporting import Exporter
from tests.logs import other_threads

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


class EndsTheRequest(SpanProcessor):
    """Ends a request's span, from another thread, in the moment in which a stage is noted."""

    def __init__(self) -> None:
        self.request: RequestSpan | None = None
        self.ends: list[threading.Thread] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if self.request is not None:
            ending = threading.Thread(target=end, args=(self.request,))
            ending.start()
            # Without a lock it is through at once.
            ending.join(0.2)
            self.ends.append(ending)


@contextmanager
def said() -> Iterator[list[str]]:
    """What OpenTelemetry logs meanwhile, but for the threads of other tests: they may send spans in vain."""
    others = other_threads()
    lines: list[str] = []
    handler = logging.Handler()
    handler.addFilter(lambda record: record.thread not in others)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def end(span: RequestSpan) -> None:
    span.end({"clip.request_id": "a"}, code="cancelled", is_fault=False)


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


@pytest.mark.parametrize(
    "tracestate",
    [
        pytest.param("https://bucket/x.jpg?X-Amz-Signature=private", id="a URL"),
        pytest.param("a=1,private", id="no value"),
        pytest.param("A=private", id="wrong key"),
        pytest.param("a=1=private", id="wrong value"),
        pytest.param(",".join(f"a{number}=1" for number in range(33)), id="too many"),
    ],
)
def test_wrong_state_costs_no_trace(tracestate: str) -> None:
    """It counts as not sent, and the trace goes on."""
    with said() as lines:
        span = Kept().tracing.begin(arrival({**SAMPLED, "tracestate": tracestate}))
    assert span is not None

    assert ([], TRACE_ID) == (lines, span.trace_id)
    assert {} == dict(span.span.get_span_context().trace_state)


def test_state_is_taken_with_the_trace() -> None:
    """Also with spaces around its members, and empty ones between them, as the format allows."""
    span = Kept().tracing.begin(arrival({**SAMPLED, "tracestate": "a=1 2,\t0b@c=~ ,, d/*=x"}))
    assert span is not None

    assert {"a": "1 2", "0b@c": "~", "d/*": "x"} == dict(span.span.get_span_context().trace_state)


MEMBERS = st.from_regex(r"[aA0@_]{1,3}=[ a=~]{1,3}", fullmatch=True) | st.text("a0=@, \té\n")


@given(st.lists(MEMBERS, max_size=40).map(",".join) | st.text())
def test_any_state_is_taken_or_not_without_a_word(tracestate: str) -> None:
    """OpenTelemetry would write what a stranger has sent into the log. What it takes is taken."""
    taken = TraceState.from_header([tracestate])
    with said() as lines:
        span = Kept().tracing.begin(arrival({**SAMPLED, "tracestate": tracestate}))
    assert span is not None

    assert [] == lines
    assert dict(taken) == dict(span.span.get_span_context().trace_state)


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


NOTED = Progress(Modality.IMAGE, 1, 0, [Stage("decode", 1.0, 2.0, 1)], [(0, "INVALID_IMAGE")])


def test_what_is_noted_after_the_end_is_ignored() -> None:
    """A job that is stopped is over before its thread knows."""
    kept = Kept()
    span = kept.tracing.begin(arrival({}))
    assert span is not None
    end(span)
    with said() as lines:
        span.note(NOTED)

    made = kept.of("POST /a")
    assert ([], 0) == (lines, len(made.events))
    assert {"http.route", "clip.request_id", "error.type"} == set(made.attributes)


def test_span_does_not_end_in_the_middle_of_a_note() -> None:
    """Its thread notes while the loop ends it: what is begun is noted whole."""
    ends, kept = EndsTheRequest(), InMemorySpanExporter()
    exporter = Exporter(SimpleSpanProcessor(kept), service="tested", distribution="clip-embedding-service")
    exporter._provider.add_span_processor(ends)
    span = Tracing(exporter).begin(arrival({}))
    assert span is not None
    ends.request = span
    with said() as lines:
        span.note(NOTED)
    ends.ends[0].join()

    [made] = [made for made in kept.get_finished_spans() if made.name == "POST /a"]
    assert ([], 1) == (lines, len(made.events))
