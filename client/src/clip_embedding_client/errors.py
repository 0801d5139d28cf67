"""Every error the client raises: one tree, and the table from the service's codes to its classes.

Two branches answer the only question most callers have: `RetryableError` (the same call can succeed later) or
`PermanentError`. A message never holds a secret, an API key, a signature or the query of a URL, and nothing that is
not printable, whatever a server said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class ClipClientError(Exception):
    """Base of all. `code` is stable, `request_id` finds the request in the service's log, None where there is none.

    `retry_after_s` is what the backend asked for, in seconds. `unavailable` says that the backend, not the request,
    is at fault, so that another backend may be asked.
    """

    code: str = "CLIENT_ERROR"
    retryable: ClassVar[bool] = False
    unavailable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        suffix = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.message}{suffix}"


class RetryableError(ClipClientError):
    """The same call can succeed later. A code from the future that is marked retryable has this very class."""

    code = "RETRYABLE"
    retryable = True
    is_last = False
    """Whether this call has no time for another attempt at the same backend."""


class PermanentError(ClipClientError):
    """Sending the same again gives the same. A code from the future that is not retryable has this very class."""

    code = "PERMANENT"


class SetupError(PermanentError):
    """A setting, a key, a clock or a version is wrong, here or there: the same for every request until somebody mends
    it, and no word about this one.
    """

    code = "SETUP"


class InvalidJson(PermanentError):
    code = "INVALID_JSON"


class ValidationFailed(PermanentError):
    code = "VALIDATION_ERROR"


class BatchTooLarge(SetupError):
    code = "BATCH_TOO_LARGE"


class BodyTooLarge(PermanentError):
    code = "BODY_TOO_LARGE"


class AuthFailed(SetupError):
    code = "AUTH_FAILED"


class AuthExpired(SetupError):
    code = "AUTH_EXPIRED"


class OperationNotFound(SetupError):
    code = "NOT_FOUND"


class MethodNotAllowed(SetupError):
    code = "METHOD_NOT_ALLOWED"


class UrlNotAllowed(PermanentError):
    code = "URL_NOT_ALLOWED"


class DownloadFailed(PermanentError):
    """The image's own server refused it (404, bad TLS, ...)."""

    code = "DOWNLOAD_ERROR"


class DownloadInterrupted(RetryableError):
    """The image's own server failed in a way that passes (5xx, 429, a reset)."""

    code = "DOWNLOAD_ERROR"


class DownloadTimeout(RetryableError):
    code = "DOWNLOAD_TIMEOUT"


class ImageTooLarge(PermanentError):
    code = "IMAGE_TOO_LARGE"


class InvalidImage(PermanentError):
    code = "INVALID_IMAGE"


class FileUnreadable(PermanentError):
    """A file or picture of the caller's own cannot be read. The service was not asked."""

    code = "FILE_UNREADABLE"


class UnavailableError(RetryableError):
    """The backend could not serve a request that may be fine: retried, counted by the breaker, then sent elsewhere.

    The same for a call and for an item of a batch; `outcomes.py` says how.
    """

    code = "UNAVAILABLE"
    unavailable = True


class Overloaded(UnavailableError):
    code = "OVERLOADED"


class RateLimited(UnavailableError):
    code = "RATE_LIMITED"


class DeadlineExceeded(UnavailableError):
    code = "DEADLINE_EXCEEDED"


class NotReady(UnavailableError):
    code = "NOT_READY"


class InferenceFailed(UnavailableError):
    code = "INFERENCE_ERROR"


class ServerFailed(UnavailableError):
    """The service answered INTERNAL."""

    code = "INTERNAL"


class ConnectionFailed(UnavailableError):
    """No connection, or it broke before the whole answer was there."""

    code = "CONNECTION_FAILED"


class BackendTimeout(UnavailableError):
    """No answer within the time of one attempt."""

    code = "BACKEND_TIMEOUT"


class GatewayFailed(UnavailableError):
    """A 5xx that the service did not write, but a proxy in front of it (502, 504, 524); or one with an unknown code."""

    code = "BAD_GATEWAY"


class UnreadableResponse(UnavailableError):
    """A success that is empty, cut off, too large, compressed or not JSON: something on the way here broke it."""

    code = "UNREADABLE_RESPONSE"


class JobFailed(UnavailableError):
    """A serverless job ended without a typed error: the worker died, or its result was lost."""

    code = "JOB_FAILED"


class JobTimedOut(UnavailableError):
    """RunPod stopped a job that ran for too long."""

    code = "JOB_TIMED_OUT"


class FingerprintUnknown(UnavailableError):
    """The primary backend has not been seen, so the fallback's vectors cannot be compared with its own."""

    code = "FINGERPRINT_UNKNOWN"


class JobCancelled(PermanentError):
    """Somebody cancelled the serverless job: sending it again would undo that."""

    code = "JOB_CANCELLED"


class WrongResponse(SetupError):
    """JSON that is not the contract's: missing members, wrong length, a vector that cannot be what was asked for."""

    code = "WRONG_RESPONSE"


class BackendMisconfigured(SetupError):
    """Something answers, and it is not this service, or it does not know the caller: a setting is wrong."""

    code = "BACKEND_MISCONFIGURED"


class BackendOff(SetupError):
    """CLIP_INFERENCE_BACKEND is off."""

    code = "BACKEND_OFF"


class FingerprintMismatch(PermanentError):
    """Two backends (or the backend and CLIP_EXPECTED_FINGERPRINT) give vectors that must not be mixed."""

    code = "FINGERPRINT_MISMATCH"


class ConfigurationError(SetupError):
    """A setting is missing or wrong; the message names the variable."""

    code = "CONFIGURATION_ERROR"


class ClientClosed(ConfigurationError):
    """The client is closed; no call of it will ever do better."""

    code = "CLIENT_CLOSED"

    # Pickle gives the message back as an argument.
    def __init__(self, message: str = "the client is closed") -> None:
        super().__init__(message)


_OF_SERVICE: tuple[type[ClipClientError], ...] = (
    InvalidJson,
    ValidationFailed,
    BatchTooLarge,
    BodyTooLarge,
    AuthFailed,
    AuthExpired,
    OperationNotFound,
    MethodNotAllowed,
    UrlNotAllowed,
    DownloadTimeout,
    ImageTooLarge,
    InvalidImage,
    Overloaded,
    RateLimited,
    DeadlineExceeded,
    NotReady,
    InferenceFailed,
    ServerFailed,
)
_BY_CODE: Mapping[str, type[ClipClientError]] = {error.code: error for error in _OF_SERVICE}


# The service's own are far shorter; whatever else a server says must not fill a log.
MAX_CODE_CHARACTERS = 64
MAX_MESSAGE_CHARACTERS = 1000
MAX_ID_CHARACTERS = 128


def printable(text: str, max_characters: int) -> str:
    """Return a stranger's text so that it is safe in a log or a terminal, with at most so many characters.

    What is not printable (line breaks, escape sequences, marks that turn the direction of writing) is written out as
    Python would, and what is too long ends in an ellipsis.
    """
    # Cut first too: megabytes are not worth writing out.
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[: max_characters + 1]
    )
    return shown if len(shown) <= max_characters else shown[: max_characters - 1] + "\N{HORIZONTAL ELLIPSIS}"


def error_from_wire(error: object, *, retry_after_s: float | None = None) -> ClipClientError | None:
    """Return the typed error of a wire error object, or None if it is not one: others have `code` and `message` too, so
    `retryable` is required.

    Its texts are made printable here, where they enter: callers log them.
    """
    if not isinstance(error, Mapping):
        return None
    code, message, request_id = error.get("code"), error.get("message"), error.get("request_id")
    retryable = error.get("retryable")
    if not isinstance(code, str) or not isinstance(message, str) or not isinstance(retryable, bool):
        return None
    return _class_of(code, retryable=retryable)(
        printable(message, MAX_MESSAGE_CHARACTERS),
        code=printable(code, MAX_CODE_CHARACTERS),
        request_id=printable(request_id, MAX_ID_CHARACTERS) if isinstance(request_id, str) else None,
        retry_after_s=retry_after_s,
    )


def _class_of(code: str, *, retryable: bool) -> type[ClipClientError]:
    if code == DownloadFailed.code:
        return DownloadInterrupted if retryable else DownloadFailed
    return _BY_CODE.get(code, RetryableError if retryable else PermanentError)
