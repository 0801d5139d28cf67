"""What may be told of sending spans. The receiver's URL and headers may hold keys, and OpenTelemetry writes both.

Instead, one line says that an outage begins, and one that it is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from typing import TypeVar

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

Result = TypeVar("Result")
Listener = Callable[[logging.LogRecord], None]

logger = logging.getLogger(__name__)

# Of what reads the headers, sends, and carries what is sent; the last one writes URLs at DEBUG.
_LOGGERS = (
    "opentelemetry.util.re",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.common.http",
    "urllib3.connectionpool",
)

_PHRASES = {status.phrase for status in HTTPStatus}

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Sender(SpanExporter):
    """Another exporter, whose own lines do not reach the log. One thread at a time exports.

    They are kept back where they are written, so at any level and whatever handlers an application has; and only
    while this one is at work on the thread, so that an application's own exporter, whose loggers they are too, still
    writes what it wants.
    """

    def __init__(self, make: Callable[[], SpanExporter]) -> None:
        self._is_failing = False
        for name in _LOGGERS:
            # Once, however many senders there are.
            logging.getLogger(name).addFilter(_is_of_others)
        self._exporter = _heard(_tell_of_headers, make)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Raises nothing, as older exporters do: whoever asks would log it, and with it the URL."""
        try:
            result = _heard(self._note, lambda: self._exporter.export(spans))
        except Exception as error:
            self._tell(type(error).__name__)
            return SpanExportResult.FAILURE
        if self._is_failing and result is SpanExportResult.SUCCESS:
            self._is_failing = False
            logger.info("traces are received again")
        return result

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See `SpanExporter`."""
        return self._exporter.force_flush(timeout_millis)

    def _note(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._tell(next(filter(None, map(_tellable, record.args or ())), "not in time"))

    def _tell(self, reason: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.warning("traces are not received: %s", reason)


def _heard(listener: Listener, call: Callable[[], Result]) -> Result:
    """Return what `call` does; what is logged meanwhile on this thread goes to `listener` alone."""
    before = _listener.set(listener)
    try:
        return call()
    finally:
        _listener.reset(before)


def _is_of_others(record: logging.LogRecord) -> bool:
    listener = _listener.get()
    if listener is None:
        return True
    listener(record)
    return False


def _tell_of_headers(_record: logging.LogRecord) -> None:
    logger.warning("OTEL_EXPORTER_OTLP_HEADERS: not name=value, or not URL-encoded")


def _tellable(value: object) -> str:
    """An error's kind, a status or its standard phrase. Not other words: what failed may be in them."""
    if isinstance(value, BaseException):
        return type(value).__name__
    return str(value) if isinstance(value, int) or value in _PHRASES else ""
