"""Which HTTP status each error of the core has. The only place where the two meet."""

from http import HTTPStatus

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from core import errors
from core.wire.openai import EMBEDDINGS, MODELS
from core.wire.responses import error_body
from core.wire.strict_json import encode

STATUS: dict[type[errors.ServiceError], int] = {
    errors.InvalidJson: 400,
    errors.ValidationFailed: 422,
    errors.BatchTooLarge: 400,
    errors.BodyTooLarge: 413,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.AuthFailed: 401,
    errors.AuthExpired: 401,
    errors.UrlNotAllowed: 400,
    errors.DownloadError: 400,
    errors.DownloadTimeout: 400,
    errors.ImageTooLarge: 413,
    errors.InvalidImage: 422,
    errors.Overloaded: 503,
    errors.RateLimited: 429,
    errors.DeadlineExceeded: 504,
    errors.NotReady: 503,
    errors.InferenceFailed: 500,
    errors.InternalError: 500,
}

# What OpenAI's clients take for a wrong request.
_OPENAI_STATUS: dict[type[errors.ServiceError], int] = {errors.ValidationFailed: 400}

_OF_HTTP: dict[int, type[errors.ServiceError]] = {
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
}


def status_of(error: errors.ServiceError, path: str) -> int:
    """The HTTP status of an error in the answer of `path`."""
    kind = type(error)
    return _OPENAI_STATUS.get(kind, STATUS[kind]) if path in (EMBEDDINGS, MODELS) else STATUS[kind]


def from_http(error: HTTPException) -> errors.ServiceError:
    """Translate what Flask refuses by itself. A body that broke off or cannot be read is not JSON."""
    known = _OF_HTTP.get(error.code or 500)
    if known is not None:
        return known()
    return errors.InvalidJson("the request could not be read") if _is_callers(error) else errors.InternalError()


def from_gunicorn(error: BaseException) -> errors.ServiceError:
    """Translate what gunicorn could not read: a request line, a header, a chunk.

    INVALID_JSON, as for a body that cannot be read: it is a 400, a status has one code, and VALIDATION_ERROR (422)
    names a field, which there is none of.
    """
    if isinstance(error, ParseException):
        return errors.InvalidJson(f"the request could not be read: {type(error).__name__}")
    return errors.InternalError()


def last_answer(error: errors.ServiceError, request_id: str) -> bytes:
    """The whole answer to what never became a request; nothing follows it on its connection."""
    status = HTTPStatus(STATUS[type(error)])
    body = encode(error_body(error, request_id))
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _is_callers(error: HTTPException) -> bool:
    return error.code is not None and 400 <= error.code < 500
