"""The way out for spans: OpenTelemetry's SDK, set up as its variables say, and ends that are bounded in time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

from .sending import Sender

# What the SDK calls a process that nobody has named.
_NAMELESS = "unknown_service"


class Exporter:
    """Spans wait in a queue that is bounded, and a thread sends them: nobody waits for the receiver, and what does not
    fit is dropped. Made by and for this process, whose name is `service` unless its environment has one; nothing of it
    is global.
    """

    def __init__(self, processor: SpanProcessor, *, service: str, distribution: str) -> None:
        # The SDK's own end, at the interpreter's exit, waits for half a minute.
        self._version = version(distribution)
        self._provider = TracerProvider(resource=_resource(service, self._version), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._distribution = distribution
        self._late: threading.Thread | None = None

    @classmethod
    def to_receiver(cls, *, service: str, distribution: str) -> Exporter:
        """To the receiver that the environment names, over HTTP. Starts the thread."""
        return cls(BatchSpanProcessor(Sender(OTLPSpanExporter)), service=service, distribution=distribution)

    def tracer(self) -> Tracer:
        """What begins spans."""
        return self._provider.get_tracer(self._distribution, self._version)

    def flush(self, most_s: float) -> None:
        """Have sent what has ended so far, and wait for that, but not for longer; not at all while an earlier one is
        late: a receiver that is away costs one caller his wait, and not each.
        """
        late = self._late
        if late is None or not late.is_alive():
            self._late = _run_for(self._provider.force_flush, most_s)

    def close(self, most_s: float) -> None:
        """Send what is left, for at most so long."""
        _run_for(self._provider.shutdown, most_s)


def _run_for(call: Callable[[], object], most_s: float) -> threading.Thread | None:
    """The SDK's own timeouts do not bound an export. Return the thread if it is left to itself."""
    thread = threading.Thread(target=call, name="traces", daemon=True)
    thread.start()
    thread.join(most_s)
    return thread if thread.is_alive() else None


def _resource(service: str, service_version: str) -> Resource:
    """What the environment says of this process, and what it leaves open."""
    given = Resource.create()
    is_nameless = str(given.attributes[SERVICE_NAME]).startswith(_NAMELESS)
    name = {SERVICE_NAME: service} if is_nameless else {}
    return Resource({SERVICE_VERSION: service_version}).merge(given).merge(Resource(name))
