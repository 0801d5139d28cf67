"""The spans of calls, by OpenTelemetry. Loaded only where traces are told.

No span holds a URL, a text, a vector, or anything of a signature or key: of a request it has the backend's name, host
and port. Names are the semantic conventions' where they have one, else begin with `clip.`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import GEN_CLOSED, getgeneratorstate
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from clip_embedding_client.effects import Effect, Exchange, Flow, HttpAnswer, InProcess
from clip_embedding_client.errors import ClipClientError

if TYPE_CHECKING:
    from clip_embedding_client.tracing.exporting import Exporter

Result = TypeVar("Result")

# What a caller waits for when it closes its client, at most: a receiver may be away.
_CLOSE_S = 3.0

_PORTS = {"http": 80, "https": 443}

_PROPAGATOR = TraceContextTextMapPropagator()


class Spans:
    """Thread-safe. Without an `exporter` the spans are the application's to send."""

    def __init__(self, tracer: Tracer, exporter: Exporter | None) -> None:
        self._tracer = tracer
        self._exporter = exporter

    def call(self, flow: Flow[Result], name: str, *, items: int) -> Flow[Result]:
        """Return the same flow with a span around it, of which each request that it sends is a child.

        The span is a child of what is current now, and here: the flow may run on another thread.
        """
        return self._call(flow, name, items, get_current())

    def _call(self, flow: Flow[Result], name: str, items: int, parent: Context) -> Flow[Result]:
        span = self._tracer.start_span(name, context=parent, attributes={"clip.items": items})
        try:
            result = yield from _Requests(self._tracer, set_span_in_context(span, parent)).traced(flow)
            _note_failures(span, result)
        except BaseException as error:
            _note_error(span, error)
            raise
        finally:
            span.end()
        return result

    def close(self) -> None:
        """Send what is left, or give it up after some seconds."""
        if self._exporter is not None:
            self._exporter.close(_CLOSE_S)


@dataclass(frozen=True, slots=True)
class _Requests:
    """Of one call."""

    tracer: Tracer
    parent: Context
    sent: Counter[str] = field(default_factory=Counter)

    def traced(self, flow: Flow[Result]) -> Flow[Result]:
        """Step through the flow, and tell of each effect that is a request before its result goes in."""
        result: object = None
        error: BaseException | None = None
        while True:
            try:
                effect = flow.send(result) if error is None else flow.throw(error)
                result, error = (yield from self._asked(effect)), None
            except StopIteration as done:  # noqa: PERF203 - an effect is a request
                value: Result = done.value
                return value
            except BaseException as interruption:
                if getgeneratorstate(flow) == GEN_CLOSED:
                    raise
                # Also Ctrl-C while a span begins or ends: the flow has not ended, and may have something to undo.
                result, error = None, interruption

    def _asked(self, effect: Effect) -> Flow[object]:
        span = self._begun(effect)
        try:
            result: object = yield effect if span is None else _carrying(effect, span)
        except BaseException as error:
            _end(span, error)
            raise
        _end(span, result)
        return result

    def _begun(self, effect: Effect) -> Span | None:
        if isinstance(effect, Exchange):
            name = f"{effect.method} {effect.backend}"
            attributes = _attributes(effect)
            if effect.method == "POST" and (resent := self.sent[name]):
                attributes["http.request.resend_count"] = resent
            self.sent[name] += 1
            return self.tracer.start_span(name, self.parent, kind=SpanKind.CLIENT, attributes=attributes)
        if isinstance(effect, InProcess):
            return self.tracer.start_span("local", self.parent, attributes={"clip.backend": "local"})
        return None


def _attributes(exchange: Exchange) -> dict[str, str | int]:
    url = urlsplit(exchange.url)
    return {
        "clip.backend": exchange.backend,
        "http.request.method": exchange.method,
        "server.address": url.hostname or "",
        "server.port": url.port or _PORTS.get(url.scheme, 0),
    }


def _carrying(effect: Effect, span: Span) -> Effect:
    if not isinstance(effect, Exchange):
        return effect
    context: dict[str, str] = {}
    _PROPAGATOR.inject(context, set_span_in_context(span, Context()))
    return effect.carrying(context)


def _end(span: Span | None, result: object) -> None:
    if span is None:
        return
    if isinstance(result, HttpAnswer):
        span.set_attribute("http.response.status_code", result.status)
        if result.status >= 400:
            span.set_attribute("error.type", str(result.status))
            span.set_status(StatusCode.ERROR)
    elif isinstance(result, BaseException):
        _note_error(span, result)
    span.end()


def _note_error(span: Span, error: BaseException) -> None:
    """Its code or its kind; not its words."""
    span.set_attribute("error.type", error.code if isinstance(error, ClipClientError) else type(error).__name__)
    span.set_status(StatusCode.ERROR)


def _note_failures(span: Span, result: object) -> None:
    """How many of a batch's items have failed, and with which code the first of them."""
    outcomes: Sequence[object] = result if isinstance(result, list) else []
    failed = [outcome for outcome in outcomes if isinstance(outcome, ClipClientError)]
    if failed:
        span.set_attribute("clip.failed_items", len(failed))
        span.set_attribute("error.type", failed[0].code)
