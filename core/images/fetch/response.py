"""What counts as an image's answer: status, encoding, length; knows nothing of connections."""

from collections.abc import Callable
from http.client import HTTPResponse

from core.errors import DownloadError, ImageTooLarge

REDIRECTS = frozenset({301, 302, 303, 307, 308})
RETRYABLE = frozenset({408, 429})

PIECE_BYTES = 65536

# Told of a number of bytes before they are kept; raises when there is no room for them.
Reserve = Callable[[int], None]


def location_of(response: HTTPResponse) -> str | None:
    """Where a redirect leads, or None when the answer is not one."""
    if response.status not in REDIRECTS:
        return None
    location = response.getheader("Location")
    if not location:
        raise DownloadError("the image's server redirected to nowhere")
    return location


def read_image(response: HTTPResponse, *, max_bytes: int, reserve: Reserve) -> bytes:
    """The whole body of a 200; raises `DownloadError`, `ImageTooLarge` and what `reserve` raises."""
    _require_plain_200(response)
    expected = response.length  # None for a chunked body, or one that ends with the connection
    if expected is not None and expected > max_bytes:
        raise _too_large(max_bytes)
    if expected is not None:
        reserve(expected)
    body = bytearray()
    # read1, because read() trusts a chunk size of -1 and then reads without a limit.
    while piece := response.read1(PIECE_BYTES):
        if expected is None:
            reserve(len(piece))
        body += piece
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    if expected is not None and len(body) < expected:
        raise DownloadError("the image's server closed the connection too early", retryable=True)
    return bytes(body)


def _require_plain_200(response: HTTPResponse) -> None:
    status = response.status
    if status != 200:
        retryable = status >= 500 or status in RETRYABLE
        raise DownloadError(f"the image's server answered {status}", retryable=retryable)
    encoding = response.getheader("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise DownloadError("the image's server sent an encoding that was not asked for")
    if response.getheader("Transfer-Encoding") is not None and not response.chunked:
        raise DownloadError("the image's server sent an encoding that was not asked for")


def _too_large(max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"the image has more than {max_bytes} bytes")
