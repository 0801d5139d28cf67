"""The Flask application: a route per row of the operation table, and the health routes.

Views run on the gevent hub, so nothing here blocks: an operation runs on a thread of its own while its greenlet
waits, and health is answered in between.
"""

import logging
import time
from contextlib import suppress
from functools import partial
from urllib.parse import quote

from flask import Flask, Response, g, request
from gevent import Timeout
from gevent.threadpool import ThreadPool
from werkzeug.exceptions import HTTPException

from core.api import OPERATIONS, Call
from core.byte_budget import ByteBudget
from core.deadline import Cancellation, Deadline, parse_timeout_ms
from core.errors import BodyTooLarge, DeadlineExceeded, InternalError, ServiceError
from core.service import Service, Status
from core.settings import ServiceSettings
from core.wire.requests import new_request_id, request_id_of
from core.wire.responses import Body, error_body
from core.wire.strict_json import encode, parse_object
from pod import SERVICE_EXTENSION, metrics
from pod.errors import STATUS, from_http
from pod.presence import cancelled_when_gone

logger = logging.getLogger(__name__)

# A body is at most a mebibyte; whoever needs longer holds a connection for its own sake.
_BODY_TIMEOUT_S = 20.0

# A refusal does not wait for the rest of a body, but what has arrived is read: closing over it resets the connection,
# and the refusal is lost on its way.
_DISCARD_TIMEOUT_S = 0.2
_DISCARD_BYTES = 4_194_304
_DISCARD_PIECE_BYTES = 65_536

_TIMEOUT_HEADER = "X-Request-Timeout-Ms"


def create_app(settings: ServiceSettings, service: Service) -> Flask:
    """Return the application over `service`, which may still be loading."""
    app = Flask(__name__)
    app.extensions[SERVICE_EXTENSION] = service
    # One byte more than is allowed: Flask cuts a body without a length there instead of refusing it.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    # Admission lets in at most this many, so `apply` never waits for a free thread.
    threads = ThreadPool(settings.max_concurrent_requests)
    # Bodies are read before admission: a thousand connections must not hold a thousand of the largest ones.
    bodies = ByteBudget(settings.max_concurrent_requests * settings.max_body_bytes)
    for path in OPERATIONS:
        app.add_url_rule(path, path, partial(_run_operation, service, threads, bodies, path), methods=["POST"])
    views = {"/health": _health, "/readyz": _readyz, "/livez": _livez, "/ping": _ping, "/metrics": _metrics}
    for path, view in views.items():
        app.add_url_rule(path, path, partial(view, service), methods=["GET"])
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(HTTPException, lambda error: _answer_error(from_http(error)))
    app.register_error_handler(ServiceError, _answer_error)
    app.register_error_handler(Exception, _answer_unknown)
    return app


def _run_operation(service: Service, threads: ThreadPool, bodies: ByteBudget, path: str) -> Response:
    cancellation = Cancellation()
    asked_ms = parse_timeout_ms(request.headers.get(_TIMEOUT_HEADER), _TIMEOUT_HEADER)
    deadline = service.deadline(asked_ms, cancellation)
    members = parse_object(_read_body(bodies, deadline))
    g.request_id = request_id_of(members)
    with service.admitted() as api, cancelled_when_gone(request.environ.get("gunicorn.socket"), cancellation):
        call = api.prepare(path, members, request_id=g.request_id, deadline=deadline)
        outcome = threads.apply(_attempt, (call,))
    g.client_gone = cancellation.cancelled
    if isinstance(outcome, ServiceError):
        return _answer_error(outcome)
    return Response(outcome, mimetype="application/json")


def _read_body(bodies: ByteBudget, deadline: Deadline) -> bytes:
    """Raises `BodyTooLarge`, `Overloaded`, and `DeadlineExceeded` for a body that trickles in."""
    limit = request.max_content_length or 0
    expected = limit if request.content_length is None else request.content_length
    if expected > limit:
        raise BodyTooLarge
    in_time = Timeout(min(_BODY_TIMEOUT_S, deadline.remaining_s()), DeadlineExceeded("the body did not arrive in time"))
    with bodies.lease(expected), in_time:
        body = request.get_data(cache=False)
    g.body_read = True
    if len(body) >= limit:
        raise BodyTooLarge
    return body


def _attempt(call: Call) -> bytes | ServiceError:
    """Run on a thread. Errors are returned: gevent prints the traceback of whatever a pool's function raises."""
    try:
        return encode(call.run())
    except ServiceError as error:
        return error
    except Exception:
        logger.exception("an operation failed", extra={"request_id": call.request_id})
        return InternalError()


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


def _metrics(service: Service) -> Response:
    return Response(metrics.exposition(service), content_type=metrics.CONTENT_TYPE)


def _begin() -> None:
    g.started_s = time.monotonic()
    g.request_id = new_request_id()
    g.code = None
    g.client_gone = False
    g.body_read = request.content_length is None and "Transfer-Encoding" not in request.headers


def _discard_rest() -> None:
    """Read what is left of a body that was refused unread, for a moment."""
    rest = request.environ["wsgi.input"]
    with suppress(OSError, Timeout), Timeout(_DISCARD_TIMEOUT_S):
        for _ in range(_DISCARD_BYTES // _DISCARD_PIECE_BYTES):
            if not rest.read(_DISCARD_PIECE_BYTES):
                return


def _finish(response: Response) -> Response:
    if not g.body_read:
        _discard_rest()
    # Header values are ASCII; a request id may be any printable text.
    response.headers["X-Request-ID"] = quote(g.request_id, safe=" !#$&'()*+,/:;=?@[]^`{|}<>\"\\")
    level = logging.DEBUG if request.method == "GET" else logging.INFO
    fields = {
        "method": request.method,
        "path": request.path[:100],
        "status": response.status_code,
        "code": g.code,
        "request_id": g.request_id,
        "client_gone": g.client_gone,
        "duration_ms": round((time.monotonic() - g.started_s) * 1000, 1),
    }
    logger.log(level, "request", extra=fields)
    return response


def _answer_error(error: ServiceError) -> Response:
    g.code = error.code
    response = _json(error_body(error, g.request_id), STATUS[type(error)])
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _answer_unknown(_error: Exception) -> Response:
    logger.exception("a view failed", extra={"request_id": g.request_id})
    return _answer_error(InternalError())


def _json(body: Body, status: int) -> Response:
    return Response(encode(body), status=status, mimetype="application/json")
