"""What went wrong below, in words that may be shown: no address, no name, nothing of what answered."""

import ssl

from core.errors import DownloadError, ImageTooLarge, ServiceError
from core.images.fetch.budget import TimeBudget

# The order matters: a certificate error is an SSLError, and that is an OSError.
_FAILURES: tuple[tuple[type[OSError], str, bool], ...] = (
    (ssl.SSLCertVerificationError, "the certificate of the image's server is not valid", False),
    (ssl.SSLEOFError, "the connection to the image's server failed", True),
    (ssl.SSLError, "TLS with the image's server failed", False),
    (OSError, "the connection to the image's server failed", True),
)


def failure_of(error: OSError, budget: TimeBudget) -> ServiceError:
    """The error to raise for an exception of a socket or of TLS."""
    if isinstance(error, TimeoutError) or budget.ends.expired:
        return budget.error()
    message, retryable = next((message, again) for kind, message, again in _FAILURES if isinstance(error, kind))
    return DownloadError(message, retryable=retryable)


def not_http() -> DownloadError:
    return DownloadError("the image's server did not answer in HTTP")


def closed_early() -> DownloadError:
    return DownloadError("the image's server closed the connection too early", retryable=True)


def too_large(max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"the image has more than {max_bytes} bytes")
