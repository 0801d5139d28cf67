"""What is told of a receiver that takes no spans: once when that begins, once when it is over, and nothing private."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import cast

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext

from shared_tracing.sending import Sender
from tests.logs import written_here
from tools.testbed.loopback import QuietHandler, base_url, serving

CONTEXT = SpanContext(1, 1, is_remote=False)
SPANS = [ReadableSpan("a", CONTEXT, start_time=1, end_time=2)]
NOT_RECEIVED = "traces are not received: "


class _Scripted(ThreadingHTTPServer):
    statuses: list[int]


class _Handler(QuietHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status = cast("_Scripted", self.server).statuses.pop(0)
        self.send_response(status, "private words" if status == 418 else None)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Raises(SpanExporter):
    """As the library's own did before it caught what requests raises."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise OSError("private words")


@contextmanager
def sender_to(*statuses: int, timeout_s: float = 30.0) -> Iterator[Sender]:
    """To a receiver that answers so, one by one."""
    with serving(_Handler) as httpd:
        cast("_Scripted", httpd).statuses = list(statuses)
        url = base_url(httpd) + "/?key=private"
        sender = Sender(lambda: OTLPSpanExporter(url, timeout=timeout_s))
        yield sender
        sender.shutdown()


def lines_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in written_here(caplog.records)]


def test_outage_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    """However many batches are lost in it."""
    caplog.set_level(logging.DEBUG)
    with sender_to(200, 401, 418, 401, 200, 200, 403) as sender:
        results = [sender.export(SPANS).name for _ in range(7)]

    assert ["SUCCESS", "FAILURE", "FAILURE", "FAILURE", "SUCCESS", "SUCCESS", "FAILURE"] == results
    assert [
        ("WARNING", f"{NOT_RECEIVED}401"),
        ("INFO", "traces are received again"),
        ("WARNING", f"{NOT_RECEIVED}403"),
    ] == lines_of(caplog)


def test_outage_is_told_when_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    """And not when the last attempt is over: a short-lived process would not say it."""
    with sender_to(503, timeout_s=0.1) as sender:
        sender.export(SPANS)
    with sender_to(503, 200) as sender:
        sender.export(SPANS)

    begins = ("WARNING", f"{NOT_RECEIVED}not in time")
    assert [begins, ("WARNING", f"{NOT_RECEIVED}Service Unavailable")] == lines_of(caplog)[:2]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(
            lambda: OTLPSpanExporter("http://127.0.0.1:9/?key=private", timeout=0.1), "not in time", id="away"
        ),
        pytest.param(lambda: OTLPSpanExporter("private://a"), "InvalidSchema", id="no URL"),
        pytest.param(Raises, "OSError", id="old exporter"),
    ],
)
def test_error_is_told_by_its_kind(
    make: Callable[[], SpanExporter], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its words hold the URL."""
    assert SpanExportResult.FAILURE is Sender(make).export(SPANS)

    [(level, line)] = lines_of(caplog)
    assert ("WARNING", True, False) == (level, line.startswith(NOT_RECEIVED + says), "private" in line)


def test_headers_that_are_wrong_are_not_shown(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are a secret, as a rule; the line names the variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer private")
    Sender(OTLPSpanExporter)

    assert [("WARNING", "OTEL_EXPORTER_OTLP_HEADERS: not name=value, or not URL-encoded")] == lines_of(caplog)


def test_exporter_of_an_application_writes_what_it_wants(caplog: pytest.LogCaptureFixture) -> None:
    """It has the same loggers."""
    Sender(lambda: OTLPSpanExporter("http://127.0.0.1:9", timeout=0.1)).export(SPANS)
    OTLPSpanExporter("http://127.0.0.1:9", timeout=0.1).export(SPANS)

    assert ["shared_tracing.sending", "opentelemetry.exporter.otlp.proto.http.trace_exporter"] == [
        record.name for record in written_here(caplog.records)
    ]
