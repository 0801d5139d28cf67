"""What fingerprints tell: which rules they follow, why two of them differ, how many dimensions each one's vectors have.

`2-<16 hex digits>` follows version 2 of the service's rules; 16 hex digits alone are of version 1.
"""

import re
import threading

from clip_embedding_client.errors import WrongResponse

EXPECTED_SETTING = "CLIP_EXPECTED_FINGERPRINT"

_FIRST_VERSION = 1
_WITH_VERSION = re.compile(r"(?:([0-9]{1,4})-)?[0-9a-f]{16}")

# A fingerprint changes with a rollout. Forgetting the oldest keeps a backend that sends a new one each time harmless.
_MOST_REMEMBERED = 64


def version_of(fingerprint: str) -> int | None:
    """Return the version of the rules of a fingerprint, or None if it has the form of none."""
    match = _WITH_VERSION.fullmatch(fingerprint)
    return int(match[1] or _FIRST_VERSION) if match else None


def why_they_differ(expected: str, answered: str, setting: str | None) -> str:
    """Say what to do about an answer by other rules than the expected fingerprint's; empty where both have the same.

    `setting` is EXPECTED_SETTING, or None if the expected one was learned from a backend.
    """
    old, new = version_of(expected), version_of(answered)
    if old is None or new is None or old == new:
        return ""
    if old > new or setting is None:
        return (
            f": they follow versions {old} and {new} of the rules for fingerprints, which cannot be compared;"
            " roll out the services first, all of them"
        )
    return (
        f": the expected one was made under version {old} of the rules for fingerprints, the service answers by"
        f" version {new}, which covers more of what makes a vector. Once all services are rolled out, compare some of"
        " the stored vectors with new ones of the same inputs, or embed everything again;"
        f" then set {setting} to the new one"
    )


class Dimensions:
    """The number of dimensions of each fingerprint, as it was first seen. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, fingerprint: str, dim: int, request_id: str | None = None) -> None:
        """Raise `WrongResponse` unless all vectors of the fingerprint so far had `dim` dimensions."""
        with self._lock:
            known = self._known.setdefault(fingerprint, dim)
            if len(self._known) > _MOST_REMEMBERED:
                del self._known[next(iter(self._known))]
        if known != dim:
            raise WrongResponse(
                f"{dim} dimensions, where vectors of the same fingerprint had {known}", request_id=request_id
            )
