"""The string that is signed: `METHOD|PATH|PAYLOAD_ID|TS`. Typed here once, for service and clients.

An image is identified by its URL exactly as it stands in the request: no parsing, no normalisation. An image that is
sent itself is identified by the SHA-256 of the file's bytes, a text by that of its UTF-8 bytes. `TS` has exactly ten
digits, so the last two `|` are unambiguous whatever the URL contains.
"""

import hashlib

from .errors import UnsignablePayload

METHOD = "POST"


def image_payload_id(image_url: str) -> str:
    """Return the URL itself, untouched."""
    return image_url


def image_content_payload_id(data: bytes) -> str:
    """Return the hex SHA-256 of an image file's bytes: of what `image_b64` stands for, not of the base64."""
    return hashlib.sha256(data).hexdigest()


def text_payload_id(text: str) -> str:
    """Return the hex SHA-256 of the text's UTF-8 bytes. Raises `UnsignablePayload` on a lone surrogate."""
    return hashlib.sha256(_utf8(text)).hexdigest()


def canonical_message(path: str, payload_id: str, ts: int) -> bytes:
    """Return the bytes to sign. Raises `UnsignablePayload` on a lone surrogate."""
    return _utf8(f"{METHOD}|{path}|{payload_id}|{ts}")


def legacy_message(image_url: str, ts: int) -> bytes:
    """Return what old serverless clients sign for a single image: `image_url|ts`."""
    return _utf8(f"{image_url}|{ts}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnsignablePayload("the payload is not valid Unicode") from error
