"""What went wrong below, in words that may be shown: no address, no name, nothing of what answered."""

import http.client
import ssl

from core.errors import DownloadError, ServiceError
from core.images.fetch.budget import TimeBudget

# The order matters: SSLError and RemoteDisconnected are OSErrors, a certificate error is an SSLError.
_FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (ssl.SSLCertVerificationError, "the certificate of the image's server is not valid", False),
    (ssl.SSLEOFError, "the connection to the image's server failed", True),
    (ssl.SSLError, "TLS with the image's server failed", False),
    (OSError, "the connection to the image's server failed", True),
    (http.client.IncompleteRead, "the image's server closed the connection too early", True),
)


def failure_of(error: Exception, budget: TimeBudget) -> ServiceError:
    """The error to raise for an exception of a socket, of TLS or of http.client."""
    if isinstance(error, TimeoutError) or budget.ends.expired:
        return budget.error()
    for kind, message, retryable in _FAILURES:
        if isinstance(error, kind):
            return DownloadError(message, retryable=retryable)
    return DownloadError("the image's server did not answer in HTTP")
