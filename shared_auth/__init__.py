"""The one HMAC rule of service and clients. Standard library only."""

from .authenticator import DEFAULT_CLIENT, DEFAULT_WINDOW_S, Authenticator, Signature, Verified
from .canonical import (
    canonical_message,
    image_content_payload_id,
    image_payload_id,
    legacy_message,
    text_payload_id,
)
from .errors import AuthError, BadSignature, ExpiredSignature, MalformedAuth, UnsignablePayload

__all__ = [
    "DEFAULT_CLIENT",
    "DEFAULT_WINDOW_S",
    "AuthError",
    "Authenticator",
    "BadSignature",
    "ExpiredSignature",
    "MalformedAuth",
    "Signature",
    "UnsignablePayload",
    "Verified",
    "canonical_message",
    "image_content_payload_id",
    "image_payload_id",
    "legacy_message",
    "text_payload_id",
]
