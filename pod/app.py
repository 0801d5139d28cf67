"""The Flask application: a route per row of the operation table, and the health routes.

Views run on the gevent hub, so nothing here blocks, and nothing takes long: the hub reads bytes, admits, hands over
and writes. What the bytes mean is found out on a thread, which parses, checks and runs, while the greenlet waits.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Flask, Request, Response, g, request
from gevent.threadpool import ThreadPool
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import MapAdapter

from core.access import Credentials
from core.api import Api, errors_of
from core.deadline import Cancellation, Deadline, parse_timeout_ms
from core.errors import CapacityError, InternalError, InvalidJson, NotFound, ServiceError
from core.metrics import GONE, OK
from core.operations import OPERATIONS
from core.service import Service, Status
from core.settings import ServiceSettings
from core.standing import Standing
from core.wire.openai import MODELS
from core.wire.requests import new_request_id, request_id_of
from core.wire.responses import Body
from core.wire.sizes import max_body_bytes
from core.wire.strict_json import encode, parse_object
from pod import FIGURES_EXTENSION, SERVICE_EXTENSION, TRACING_EXTENSION, docs
from pod.body import Bodies, ReceivedBody
from pod.connection import Connection
from pod.errors import from_http, status_of
from pod.metrics import CONTENT_TYPE, Figures
from pod.presence import cancelled_when_gone
from pod.requests import Requests
from shared_auth.contract import TIMEOUT_HEADER

if TYPE_CHECKING:
    from core.spans import RequestSpan, Tracing

logger = logging.getLogger(__name__)

# A request that is turned away is answered with its own id if that is quickly found.
_QUICKLY_PARSED_BYTES = 16_384

_TIMEOUT_VARIABLE = "HTTP_X_REQUEST_TIMEOUT_MS"

_AUTHORIZATION_VARIABLE = "HTTP_AUTHORIZATION"

_JSON = "application/json"


@dataclass(slots=True)
class _Exchange:
    """What is known of a request when it is answered."""

    started_s: float
    request_id: str | None = None
    client: str | None = None
    counted_as: str = ""
    standing: Standing | None = None
    code: str | None = None
    client_gone: bool = False
    trace: "RequestSpan | None" = None


@dataclass(frozen=True, slots=True)
class _Door:
    """What operations share: who runs them, and how much may be held before that is decided."""

    service: Service
    threads: ThreadPool
    bodies: Bodies


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as it has arrived."""

    path: str
    body: ReceivedBody
    credentials: Credentials
    deadline: Deadline


class _App(Flask):
    """Flask, less what it finds out anew for every request and this service has no use for."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """By path alone. Flask's own looks at the Host header first, and builds URLs for nobody here."""
        if request is None:
            return None
        return self.url_map.bind("", path_info=request.path, default_method=request.method)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """No view is a coroutine."""
        return func


def create_app(settings: ServiceSettings, service: Service, tracing: "Tracing | None" = None) -> Flask:
    """Return the application over `service`, which may still be loading."""
    # Without a folder of Flask's own, which would serve the page's files where they are turned off, and from the disk.
    app = _App(__name__, static_folder=None)
    app.extensions[SERVICE_EXTENSION] = service
    door = _Door(
        service,
        # Admission lets in at most this many, so `apply` never waits for a free thread.
        ThreadPool(settings.max_concurrent_requests),
        Bodies(
            requests=settings.max_concurrent_requests,
            large_bytes=settings.max_image_bytes_in_flight,
            max_body_bytes=max_body_bytes(settings),
        ),
    )
    # A path with an empty part is another one: unknown, and not led to what it may have meant.
    app.url_map.merge_slashes = False
    for path in OPERATIONS:
        app.add_url_rule(path, path, partial(_run_operation, door, path), methods=["POST"])
    app.add_url_rule(MODELS, MODELS, partial(_models, service), methods=["GET"])
    views = {"/health": _health, "/readyz": _readyz, "/livez": _livez, "/ping": _ping}
    for path, view in views.items():
        app.add_url_rule(path, path, partial(view, service), methods=["GET"])
    requests = Requests()
    figures = app.extensions[FIGURES_EXTENSION] = Figures([service, requests, door.bodies])
    # A thread of its own: reading the figures of many processes takes milliseconds, whatever else is asked meanwhile.
    app.add_url_rule("/metrics", "/metrics", partial(_metrics, figures, ThreadPool(1)), methods=["GET"])
    for path, page in docs.views(settings).items():
        app.add_url_rule(path, path, page, methods=["GET"])
    app.before_request(_begin)
    app.extensions[TRACING_EXTENSION] = tracing
    if tracing is not None:
        from pod import traces

        traces.install(app, tracing)
    app.after_request(partial(_finish, requests))
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(ServiceError, _answer_error)
    app.register_error_handler(Exception, _answer_unknown)
    return app


def _run_operation(door: _Door, path: str) -> Response:
    environ = request.environ
    connection: Connection = environ["gunicorn.socket"]
    exchange: _Exchange = g.exchange
    cancellation = Cancellation()
    asked_ms = parse_timeout_ms(environ.get(_TIMEOUT_VARIABLE), TIMEOUT_HEADER)
    deadline = door.service.deadline(asked_ms, cancellation)
    body = door.bodies.read(connection, environ, deadline)
    try:
        with door.service.admitted() as api, cancelled_when_gone(connection, cancellation):
            asked = _Asked(path, body, Credentials(environ.get(_AUTHORIZATION_VARIABLE)), deadline)
            outcome = door.threads.apply(_attempt, (api, asked, exchange))
    except CapacityError as refused:
        exchange.request_id = _id_in(body)
        return _answer_error(refused)
    finally:
        body.release()
    exchange.client_gone = cancellation.cancelled
    if isinstance(outcome, ServiceError):
        return _answer_error(outcome)
    return Response(outcome, content_type=_JSON)


def _attempt(api: Api, asked: _Asked, exchange: _Exchange) -> bytes | ServiceError:
    """Run on a thread, while the greenlet waits: what to answer; what becomes known on the way is in `exchange`.

    Errors are returned: gevent prints the traceback of whatever a pool's function raises.
    """
    try:
        members = parse_object(asked.body.data)
        request_id = exchange.request_id = request_id_of(members)
        call = api.prepare(
            asked.path,
            members,
            request_id=request_id,
            deadline=asked.deadline,
            credentials=asked.credentials,
            trace=exchange.trace,
        )
        exchange.client, exchange.counted_as = call.client, call.counting.client
        # The call has what it needs of them: a batch of images would be held twice.
        members.clear()
        asked.body.release()
        try:
            return encode(call.run())
        finally:
            exchange.standing = call.standing
    except ServiceError as error:
        return error
    except Exception:
        logger.exception("an operation failed", extra={"request_id": exchange.request_id})
        return InternalError()


def _id_in(body: ReceivedBody) -> str | None:
    if len(body.data) > _QUICKLY_PARSED_BYTES:
        return None
    try:
        return request_id_of(parse_object(body.data))
    except InvalidJson:
        return None


def _health(service: Service) -> Response:
    return _json(service.health(), 200 if service.status is Status.OK else 503)


def _readyz(service: Service) -> Response:
    return _json({"status": service.status.value}, 200 if service.status is Status.OK else 503)


def _livez(service: Service) -> Response:
    """200 while the process can recover by itself: loading and draining end, a lost device does not."""
    return _json({"status": service.status.value}, 503 if service.status is Status.UNHEALTHY else 200)


def _ping(service: Service) -> Response:
    """The health check of load-balancing endpoints: 204 means "still starting", anything odd means "remove"."""
    if service.status is Status.LOADING:
        return Response(status=204)
    return _readyz(service)


def _models(service: Service) -> Response:
    with service.admitted() as api:
        return _json(api.models(Credentials(request.environ.get(_AUTHORIZATION_VARIABLE))), 200)


def _metrics(figures: Figures, thread: ThreadPool) -> Response:
    return Response(thread.apply(figures.exposition), content_type=CONTENT_TYPE)


def _begin() -> None:
    g.exchange = _Exchange(time.monotonic())
    # The router would drop the empty parts in front, and metrics and traces would not know what it has found then.
    if request.environ["PATH_INFO"].startswith("//"):
        raise NotFound


def _finish(requests: Requests, response: Response) -> Response:
    exchange: _Exchange = g.exchange
    request_id = _request_id(exchange)
    # Header values are ASCII; a request id may be any printable text.
    response.headers["X-Request-ID"] = quote(request_id, safe=" !#$&'()*+,/:;=?@[]^`{|}<>\"\\")
    if exchange.standing is not None:
        response.headers["RateLimit-Limit"] = str(exchange.standing.limit)
        response.headers["RateLimit-Remaining"] = str(exchange.standing.remaining)
        response.headers["RateLimit-Reset"] = str(exchange.standing.reset_s)
    asked = request.environ
    method = asked["REQUEST_METHOD"]
    took_s = time.monotonic() - exchange.started_s
    if method == "POST":
        code = GONE if exchange.client_gone else exchange.code or OK
        requests.note(asked["PATH_INFO"], client=exchange.counted_as, code=code, seconds=took_s)
    level = logging.DEBUG if method == "GET" else logging.INFO
    fields = {
        "method": method,
        "path": asked["PATH_INFO"][:100],
        "status": response.status_code,
        "code": exchange.code,
        "request_id": request_id,
        "client": exchange.client,
        "client_gone": exchange.client_gone,
        "duration_ms": round(took_s * 1000, 1),
    }
    if exchange.trace is not None:
        from pod import traces

        fields["trace_id"] = exchange.trace.trace_id
        traces.end(exchange.trace, response, request_id=request_id, code=exchange.code)
    logger.log(level, "request", extra=fields)
    return response


def _request_id(exchange: _Exchange) -> str:
    """The caller's, if that is known by now, or one that is made."""
    if exchange.request_id is None:
        exchange.request_id = new_request_id()
    return exchange.request_id


def _answer_error(error: ServiceError) -> Response:
    exchange: _Exchange = g.exchange
    exchange.code = error.code
    path = request.environ["PATH_INFO"]
    response = _json(errors_of(path)(error, _request_id(exchange)), status_of(error, path))
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _answer_http(error: HTTPException) -> Response:
    response = _answer_error(from_http(error))
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
    return response


def _answer_unknown(_error: Exception) -> Response:
    logger.exception("a view failed", extra={"request_id": _request_id(g.exchange)})
    return _answer_error(InternalError())


def _json(body: Body, status: int) -> Response:
    return Response(encode(body), status=status, content_type=_JSON)
