"""Why a signature was refused. Every failure has its own class; all of them are `AuthError`."""


class AuthError(Exception):
    """Base of all failures of signing and verifying."""


class UnsignablePayload(AuthError):
    """The payload cannot be written as UTF-8 (a lone surrogate), so nobody can have signed it."""


class MalformedAuth(AuthError):
    """`auth` is missing or is not `{"ts": <10 digits>, "sig": <64 lowercase hex digits>}`."""


class BadSignature(AuthError):
    """No active secret makes this signature for this message."""


class ExpiredSignature(AuthError):
    """The signature is right, and its time lies outside the window, in the past or in the future."""
