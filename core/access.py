"""Who asks: whose signature stands under a request, or whose key came with it."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import AuthExpired, AuthFailed, InvalidImage, NotFound, ValidationFailed
from core.wire.requests import Request
from shared_auth import DEFAULT_CLIENT, Authenticator, AuthError, ExpiredSignature, Signature, UnsignablePayload

_SCHEME = "bearer"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What came beside a request. `trusted` says that whoever carries the requests has asked for a key already."""

    authorization: str | None = None
    trusted: bool = False


NONE = Credentials()


class Access:
    """`authenticator` is None only where the service was started with ALLOW_INSECURE_AUTH; `keys` are by name."""

    def __init__(self, authenticator: Authenticator | None, keys: Mapping[str, str]) -> None:
        self._authenticator = authenticator
        self._digests = {name: _digest(key) for name, key in keys.items()}

    def of_signatures(self, path: str, request: Request) -> str | None:
        """Return the client that has signed, None where nobody has to.

        Every item of a batch is signed by itself; one bad signature refuses the whole request. Raises `AuthFailed`,
        `AuthExpired` or `ValidationFailed`; and `InvalidImage` where no image has bytes that anybody could have signed:
        who has shown nothing is answered nothing else.
        """
        if self._authenticator is None:
            return None
        verify = self._authenticator.verify
        try:
            verified = [verify(path, payload_id, auth) for payload_id, auth in request.signed_payloads()]
        except UnsignablePayload as error:
            raise ValidationFailed("the request holds text that is not valid Unicode") from error
        except ExpiredSignature as error:
            raise AuthExpired from error
        except AuthError as error:
            raise AuthFailed from error
        if not verified:
            raise InvalidImage("image_b64 is not base64, or is empty")
        _refuse_repeated([one.signature for one in verified])
        client, *others = {one.client for one in verified}
        if others:
            # One request is counted, limited and logged as one client's.
            raise ValidationFailed("items: they are signed by different clients")
        return client

    def of_key(self, credentials: Credentials) -> str:
        """Return whose key came with the request. Raises `AuthFailed`, and `NotFound` where there are no keys."""
        if credentials.trusted:
            return DEFAULT_CLIENT
        if not self._digests:
            raise NotFound
        scheme, _, key = (credentials.authorization or "").partition(" ")
        sent = _digest(key.strip())
        # No early exit: the time taken must not tell which key came near.
        holders = [name for name, digest in self._digests.items() if hmac.compare_digest(digest, sent)]
        if scheme.lower() != _SCHEME or not holders:
            raise AuthFailed
        return holders[0]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _refuse_repeated(signatures: Sequence[Signature]) -> None:
    """Otherwise whoever has seen one signed item gets a whole batch of work for it in each request."""
    first: dict[Signature, int] = {}
    for position, signature in enumerate(signatures):
        if first.setdefault(signature, position) != position:
            raise ValidationFailed(
                f"items[{position}].auth: items[{first[signature]}] has the same signature; in a batch each has its own"
            )
