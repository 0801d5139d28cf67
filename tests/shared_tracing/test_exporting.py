"""The ends of an exporter: what is left is sent, and nobody waits for a receiver that does not answer."""

import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared_tracing.exporting import Exporter

SOON_S = 30.0
# The SDK's own thread never comes first.
NEVER_MS = 3_600_000.0


class HangingReceiver(SpanExporter):
    """Takes nothing before it is `opened`."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.asked = threading.Semaphore(0)
        self.exports = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.exports += 1
        self.asked.release()
        assert self.opened.wait(SOON_S)
        return SpanExportResult.SUCCESS


def exporter_to(receiver: SpanExporter) -> Exporter:
    return Exporter(
        BatchSpanProcessor(receiver, schedule_delay_millis=NEVER_MS), service="tested", distribution="numpy"
    )


def test_flush_sends_what_has_ended() -> None:
    """Before it returns; and each span says of which process and version it is."""
    receiver = InMemorySpanExporter()
    exporter = exporter_to(receiver)
    exporter.tracer().start_span("one").end()
    exporter.flush(SOON_S)
    [span] = receiver.get_finished_spans()
    exporter.close(SOON_S)

    assert ("one", "tested") == (span.name, span.resource.attributes["service.name"])
    assert span.resource.attributes["service.version"] == span.instrumentation_scope.version  # type: ignore[union-attr]


def test_nobody_waits_for_a_receiver_that_hangs() -> None:
    """One flush waits as long as it may, the next ones not at all, and the end has its own bound."""
    receiver = HangingReceiver()
    exporter = exporter_to(receiver)
    exporter.tracer().start_span("one").end()
    exporter.flush(0.01)
    assert receiver.asked.acquire(timeout=SOON_S)
    exporter.tracer().start_span("two").end()
    # Were they to wait, the test would be over its time.
    exporter.flush(SOON_S * 100)
    exporter.close(0.01)
    exports = receiver.exports
    receiver.opened.set()

    assert 1 == exports


def test_end_sends_what_is_left() -> None:
    """A process that drains loses no span."""
    receiver = InMemorySpanExporter()
    exporter = exporter_to(receiver)
    exporter.tracer().start_span("one").end()
    exporter.close(SOON_S)

    assert ["one"] == [span.name for span in receiver.get_finished_spans()]
