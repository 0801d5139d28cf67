"""A span for each request to an operation, where traces are told; else the app knows nothing of this module.

On the hub, so that a request which is turned away there has its span too.
"""

from functools import partial

from flask import Flask, Response, g, request

from core.operations import OPERATIONS
from core.spans import Arrival, Attributes, RequestSpan, Tracing

_VARIABLES = {"traceparent": "HTTP_TRACEPARENT", "tracestate": "HTTP_TRACESTATE"}


def install(app: Flask, tracing: Tracing) -> None:
    """Begin a span with each request, from when its `exchange` began."""
    app.before_request(partial(_begin, tracing))


def end(span: RequestSpan, response: Response, *, request_id: str, code: str | None) -> None:
    """Of a request that has been answered."""
    status = response.status_code
    attributes: Attributes = {"http.response.status_code": status, "clip.request_id": request_id}
    span.end(attributes, code=code, is_fault=status >= 500)


def _begin(tracing: Tracing) -> None:
    environ = request.environ
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    if path not in OPERATIONS or method != "POST":
        return
    sent = {name: environ.get(variable) for name, variable in _VARIABLES.items()}
    attributes = {"http.request.method": method, "http.route": path, "url.path": path, "url.scheme": "http"}
    arrival = Arrival(f"{method} {path}", "server", g.exchange.started_s, sent, attributes)
    g.exchange.trace = tracing.begin(arrival)
