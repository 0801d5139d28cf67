"""Which HTTP status each error of the core has. The only place where the two meet."""

from werkzeug.exceptions import HTTPException

from core import errors

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

_OF_HTTP: dict[int, type[errors.ServiceError]] = {
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
}


def from_http(error: HTTPException) -> errors.ServiceError:
    """Translate what Flask refuses by itself. A body that broke off or cannot be read is not JSON."""
    known = _OF_HTTP.get(error.code or 500)
    if known is not None:
        return known()
    return errors.InvalidJson("the request could not be read") if _is_callers(error) else errors.InternalError()


def _is_callers(error: HTTPException) -> bool:
    return error.code is not None and 400 <= error.code < 500
