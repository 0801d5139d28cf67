"""One object that signs and verifies. Secrets and clock are arguments; nothing is read from the environment."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .canonical import canonical_message, legacy_message
from .errors import BadSignature, ExpiredSignature, MalformedAuth

DEFAULT_WINDOW_S = 120

# The client of the secrets that have no name of their own.
DEFAULT_CLIENT = "default"

_TS = re.compile(r"[0-9]{10}")
_SIG = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Signature:
    """`ts` in Unix seconds, `sig` as 64 lowercase hex digits."""

    ts: int
    sig: str

    def as_dict(self) -> dict[str, int | str]:
        """Return the wire form, the `auth` member of a request."""
        return {"ts": self.ts, "sig": self.sig}


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that is right and recent, and the name of the client whose secret has made it."""

    signature: Signature
    client: str


class Authenticator:
    """Signs with the first secret, accepts any of them, so that a secret can be rotated without downtime.

    `secrets` are those of the client `default`; `clients` are others by name, each with a secret of its own.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        clients: Mapping[str, str] | None = None,
        window_s: int = DEFAULT_WINDOW_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        named = [*((DEFAULT_CLIENT, secret) for secret in secrets), *(clients or {}).items()]
        if not named or not all(secret for _, secret in named):
            raise ValueError("at least one secret is needed, and none may be empty")
        self._clients = [client for client, _ in named]
        self._keys = [secret.encode() for _, secret in named]
        self._window_s = window_s
        self._clock = clock

    def sign(self, path: str, payload_id: str) -> Signature:
        """Sign now. Raises `UnsignablePayload` if the payload is not valid Unicode."""
        ts = int(self._clock())
        return Signature(ts, _mac(self._keys[0], canonical_message(path, payload_id, ts)))

    def verify(self, path: str, payload_id: str, auth: object) -> Verified:
        """Return who has signed this payload for this path a moment ago, else raise an `AuthError`.

        `auth` is whatever the caller sent. Its shape is checked first, then the MAC against every secret in
        constant time, then the window: a wrong signature never learns anything about the clock.
        """
        signature = parse_auth(auth)
        return self._check(signature, canonical_message(path, payload_id, signature.ts))

    def verify_legacy(self, image_url: str, auth: object) -> Verified:
        """Like `verify`, for the old serverless form that signs `image_url|ts`."""
        signature = parse_auth(auth)
        return self._check(signature, legacy_message(image_url, signature.ts))

    def _check(self, signature: Signature, message: bytes) -> Verified:
        sent = signature.sig.encode()
        # No early exit: the time taken must not tell which secret matched.
        matches = [hmac.compare_digest(_mac(key, message).encode(), sent) for key in self._keys]
        if not any(matches):
            raise BadSignature("the signature does not match")
        if abs(self._clock() - signature.ts) > self._window_s:
            raise ExpiredSignature("the signature is outside the time window")
        return Verified(signature, self._clients[matches.index(True)])


def parse_auth(auth: object) -> Signature:
    """Check the shape of a wire `auth` value. Raises `MalformedAuth` on anything but the exact form."""
    if not isinstance(auth, Mapping):
        raise MalformedAuth("auth is not an object")
    ts, sig = auth.get("ts"), auth.get("sig")
    # bool is an int; and int() would take " 17", "+17", "1_7" and full-width digits, hence no conversion.
    if not isinstance(ts, int) or isinstance(ts, bool) or not 0 <= ts < 10**10 or not _TS.fullmatch(str(ts)):
        raise MalformedAuth("auth.ts is not Unix seconds")
    if not isinstance(sig, str) or not _SIG.fullmatch(sig):
        raise MalformedAuth("auth.sig is not 64 lowercase hex digits")
    return Signature(ts, sig)


def _mac(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()
