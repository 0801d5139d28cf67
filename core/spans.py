"""The spans of requests, by OpenTelemetry: one for each, with children for its stages. Loaded only where they are told.

No span holds a URL of an image, a text, a vector or anything of a signature; names are the semantic conventions' where
they have one, else begin with `clip.`.
"""

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from core.tracing import Progress
from shared_tracing import TRACE_CONTEXT
from shared_tracing.exporting import Exporter

Attributes = Mapping[str, str | int | bool]

# Longer ones are none: the format's own, and what other systems may add to it (W3C Trace Context, 3.3.1.5).
_MAX_CHARACTERS = 512

# A member of a tracestate, of which there may be so many (W3C Trace Context, 3.3.1.3, as OpenTelemetry takes it).
_KEY = r"[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(f"(?:{_KEY})={_VALUE}")
_MAX_MEMBERS = 32

_PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that has come: `started_s` is on the monotonic clock, `sent` are headers or members, or what else may
    hold a trace context.
    """

    name: str
    kind: Literal["server", "consumer"]
    started_s: float
    sent: Mapping[str, object]
    attributes: Attributes


class Tracing:
    """Of one process; thread-safe."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._tracer = exporter.tracer()

    def begin(self, arrival: Arrival) -> "RequestSpan | None":
        """Return the span of a request, a child of its caller's if that sent one; None if it is not sampled."""
        span = self._tracer.start_span(
            arrival.name,
            context=_context_of(arrival.sent),
            kind=SpanKind[arrival.kind.upper()],
            attributes=arrival.attributes,
            start_time=_Clock().at_ns(arrival.started_s),
        )
        return RequestSpan(self._tracer, span) if span.is_recording() else None

    def flush(self, most_s: float) -> None:
        """See `Exporter.flush`."""
        self._exporter.flush(most_s)

    def close(self, most_s: float) -> None:
        """See `Exporter.close`."""
        self._exporter.close(most_s)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Readings of the monotonic clock as points in time. Of one request: the other clock may be set."""

    offset_ns: int = field(default_factory=lambda: time.time_ns() - time.monotonic_ns())

    def at_ns(self, monotonic_s: float) -> int:
        return self.offset_ns + int(monotonic_s * 1e9)


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """A `core.tracing.Trace`. Ended once, by whoever has begun it, also while a thread of the request still runs."""

    tracer: Tracer
    span: Span
    clock: _Clock = field(default_factory=_Clock)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def trace_id(self) -> str:
        """As 32 hex digits."""
        return format_trace_id(self.span.get_span_context().trace_id)

    def note(self, progress: Progress) -> None:
        """A child for each stage, an event for each item that failed. After the end it is too late, and nothing."""
        with self.lock:
            # OpenTelemetry would log each of these otherwise.
            if self.span.is_recording():
                self._note(progress)

    def _note(self, progress: Progress) -> None:
        modality = {"clip.modality": progress.modality.value}
        context = set_span_in_context(self.span, Context())
        for stage in progress.stages:
            child = self.tracer.start_span(
                stage.name,
                context=context,
                attributes={**modality, "clip.items": stage.items},
                start_time=self.clock.at_ns(stage.began_s),
            )
            child.end(self.clock.at_ns(stage.ended_s))
        for position, code in progress.failures:
            self.span.add_event("item failed", {**modality, "clip.position": position, "error.type": code})
        kind = progress.modality.value
        self.span.set_attribute(f"clip.{kind}.items", progress.items)
        self.span.set_attribute(f"clip.{kind}.cached_items", progress.cached)

    def end(self, attributes: Attributes, *, code: str | None, is_fault: bool) -> None:
        """`code` is of the error that was answered, `is_fault` that the caller is not to blame for it."""
        with self.lock:
            self.span.set_attributes(attributes)
            if code is not None:
                self.span.set_attribute("error.type", code)
            if is_fault:
                self.span.set_status(StatusCode.ERROR)
            self.span.end()


def _context_of(sent: Mapping[str, object]) -> Context:
    """What is wrongly sent counts as not sent, as the format asks for; a wrong state costs no trace."""
    carrier = {name: value for name in TRACE_CONTEXT if isinstance(value := sent.get(name), str)}
    if any(len(value) > _MAX_CHARACTERS for value in carrier.values()):
        return Context()
    if not _is_state(carrier.get("tracestate", "")):
        # OpenTelemetry would log what a stranger has sent, a URL for one.
        del carrier["tracestate"]
    return _PROPAGATOR.extract(carrier, Context())


def _is_state(text: str) -> bool:
    """Whether it is a tracestate. Empty members are allowed."""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    return len(members) <= _MAX_MEMBERS and all(map(_MEMBER.fullmatch, members))
