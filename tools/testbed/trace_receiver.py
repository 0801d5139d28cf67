"""A receiver of traces on loopback: takes what OTLP exporters send over HTTP, and reads the protobuf."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tools.testbed.loopback import QuietHandler, base_url, serving

_SOON_S = 60.0
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Event:
    """Something within a span."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """As it came; ids are hex, `parent_id` is empty for the first of a trace, times are Unix nanoseconds."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    is_error: bool
    attributes: Mapping[str, Any]
    events: tuple[Event, ...]


class TraceReceiver:
    """Thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._received: list[Span] = []
        self._raw = bytearray()

    @property
    def raw(self) -> bytes:
        """All that has come, byte by byte."""
        return bytes(self._raw)

    @property
    def spans(self) -> list[Span]:
        """All that have come, of all services."""
        with self._lock:
            return list(self._received)

    def environment(self, **variables: str) -> dict[str, str]:
        """What has a process send its spans here, and soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50", **variables}

    def wait_for(self, name: str, *, service: str | None = None) -> list[Span]:
        """Wait until a span of that name has come, and return all of them."""
        return self._wait(lambda span: span.name == name and service in (None, span.service), name)

    def wait_for_trace(self, trace_id: str, name: str) -> list[Span]:
        """Wait until a span of that name and trace has come, and return all of them."""
        return self._wait(lambda span: (span.trace_id, span.name) == (trace_id, name), name)

    def _wait(self, is_meant: Callable[[Span], bool], name: str) -> list[Span]:
        until_s = time.monotonic() + _SOON_S
        while time.monotonic() < until_s:
            if found := list(filter(is_meant, self.spans)):
                return found
            time.sleep(_LOOK_S)
        raise AssertionError(f"no {name!r} among {[span.name for span in self.spans]}")

    def take(self, body: bytes) -> None:
        """One request of an exporter."""
        spans = list(_spans(ExportTraceServiceRequest.FromString(body)))
        with self._lock:
            self._raw += body
            self._received += spans


@contextmanager
def trace_receiver() -> Iterator[TraceReceiver]:
    """Run one on a free port of loopback until the block ends."""
    with serving(_Handler) as httpd:
        receiver = TraceReceiver(base_url(httpd))
        httpd.receiver = receiver  # type: ignore[attr-defined]
        yield receiver


class _Handler(QuietHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.receiver.take(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            yield from (_span(service, span) for span in scope.spans)


def _span(service: str, span: WireSpan) -> Span:
    return Span(
        service,
        span.name,
        WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == Status.STATUS_CODE_ERROR,
        _values(span.attributes),
        tuple(Event(event.name, _values(event.attributes)) for event in span.events),
    )


def _values(attributes: Any) -> dict[str, Any]:  # noqa: ANN401 - protobuf's own containers
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
