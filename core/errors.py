"""Every error a caller can see: one tree, each class with its stable wire code.

Knows no transport: an adapter maps classes to its own envelope. Messages are shown to strangers, so they
never hold a secret, a signature, a URL's query string, an internal address or a traceback.
"""

from typing import ClassVar

from core.standing import Standing


class StartError(Exception):
    """The service cannot start; the message is one line that names the cause and what to do."""


class ServiceError(Exception):
    """Base of everything that is answered to a caller.

    `code` is stable, `retryable` says whether the same request can succeed later, `retry_after_s` is a hint
    in seconds or None. `param` is the member of the request that is at fault, where that is known.
    """

    code: ClassVar[str] = "INTERNAL"
    default_message: ClassVar[str] = "internal error"
    retryable: bool = False
    retry_after_s: int | None = None
    param: str | None = None

    def __init__(self, message: str | None = None) -> None:
        self.message = message or self.default_message
        super().__init__(self.message)


class RequestError(ServiceError):
    """The request itself is at fault, before anything was done for it."""


class InvalidJson(RequestError):
    code = "INVALID_JSON"
    default_message = "the body is not a JSON object"


class ValidationFailed(RequestError):
    code = "VALIDATION_ERROR"
    default_message = "a field is missing or out of range"


class BatchTooLarge(RequestError):
    code = "BATCH_TOO_LARGE"
    default_message = "too many items in one batch"


class BodyTooLarge(RequestError):
    code = "BODY_TOO_LARGE"
    default_message = "the request body is too large"


class NotFound(RequestError):
    code = "NOT_FOUND"
    default_message = "there is no such operation"


class MethodNotAllowed(RequestError):
    code = "METHOD_NOT_ALLOWED"
    default_message = "this operation does not take that method"


class AuthenticationError(RequestError):
    """The caller did not prove that it holds the secret, or not recently enough."""

    code = "AUTH_FAILED"
    default_message = "authentication failed"


class AuthFailed(AuthenticationError):
    """Signature missing, malformed or wrong. The message is constant: it must not help a guesser."""


class AuthExpired(AuthenticationError):
    code = "AUTH_EXPIRED"
    default_message = "the signature is outside the accepted time window"


class ImageError(ServiceError):
    """One image could not be had or understood; other items of a batch are not touched."""


class UrlNotAllowed(ImageError):
    code = "URL_NOT_ALLOWED"
    default_message = "this URL is not allowed"


class DownloadError(ImageError):
    code = "DOWNLOAD_ERROR"
    default_message = "the image could not be downloaded"

    def __init__(self, message: str | None = None, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class DownloadTimeout(ImageError):
    code = "DOWNLOAD_TIMEOUT"
    default_message = "the download took too long"
    retryable = True


class ImageTooLarge(ImageError):
    code = "IMAGE_TOO_LARGE"
    default_message = "the image is too large"


class InvalidImage(ImageError):
    code = "INVALID_IMAGE"
    default_message = "the image cannot be decoded"


class CapacityError(ServiceError):
    """The request is fine and can be sent again later."""

    retryable = True


class Overloaded(CapacityError):
    code = "OVERLOADED"
    default_message = "the service is at its limit"
    retry_after_s = 1


class RateLimited(CapacityError):
    code = "RATE_LIMITED"
    default_message = "too many requests from this client"

    def __init__(self, message: str | None = None, *, retry_after_s: int = 1, standing: Standing | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.standing = standing


class DeadlineExceeded(CapacityError):
    code = "DEADLINE_EXCEEDED"
    default_message = "the request's time budget ran out"


class NotReady(CapacityError):
    code = "NOT_READY"
    default_message = "the service is not ready"
    retry_after_s = 5


class InferenceFailed(ServiceError):
    code = "INFERENCE_ERROR"
    default_message = "the model failed on this item"
    retryable = True


class InternalError(ServiceError):
    """Anything unknown. The cause is logged with the request id and never shown."""

    code = "INTERNAL"
    retryable = True
