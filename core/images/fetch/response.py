"""What counts as an image's answer: status and encodings; knows nothing of connections."""

from core.errors import DownloadError
from core.images.fetch.head import Head

REDIRECTS = frozenset({301, 302, 303, 307, 308})
RETRYABLE = frozenset({408, 429})


def location_of(head: Head) -> bytes | None:
    """Where a redirect leads, or None when the answer is not one."""
    if head.status not in REDIRECTS:
        return None
    if not head.location:
        raise DownloadError("the image's server redirected to nowhere")
    return head.location


def require_plain_200(head: Head) -> None:
    """Raise `DownloadError` unless the body is the image's own bytes."""
    if head.status != 200:
        retryable = head.status >= 500 or head.status in RETRYABLE
        raise DownloadError(f"the image's server answered {head.status}", retryable=retryable)
    content_encoding = (head.content_encoding or b"identity").lower()
    if content_encoding != b"identity" or not (head.transfer_encoding is None or head.chunked):
        raise DownloadError("the image's server sent an encoding that was not asked for")
