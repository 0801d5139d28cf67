"""What a backend is to the client: it takes a signed body and gives the contract's body, or a typed error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from clip_embedding_client.effects import Flow, HttpAnswer
from clip_embedding_client.errors import (
    BackendMisconfigured,
    BackendTimeout,
    ClipClientError,
    GatewayFailed,
    NotReady,
    PermanentError,
    RateLimited,
    RetryableError,
    UnreadableResponse,
    error_from_wire,
)
from clip_embedding_client.signing.contract import MOST_TIMEOUT_MS

# An answer needs time for the way back: a server that worked until the caller's last moment would work for nobody.
# A tenth of the time is kept for it, and no more than a whole batch takes on a slow line.
_WAY_BACK_SHARE = 0.1
_LONGEST_WAY_BACK_S = 1.0


class Backend(Protocol):
    """Thread-safe. `timeout_s` is the most that a call may take; a backend's own setting may be shorter.

    The service is told how long that is, so that it neither works for a caller who has gone nor is given up on just
    before it could say which items were too slow.
    """

    @property
    def name(self) -> str: ...

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        """Return the answer to one operation, unchecked. Raises a `ClipClientError`."""

    def health(self, *, timeout_s: float) -> Flow[object]:
        """Return the health body, whatever its status. Raises a `ClipClientError` if there is none."""

    def close(self) -> None:
        """Release what it holds itself, a model; connections are the driver's."""


def told_timeout_ms(limit_s: float) -> int:
    """Return the milliseconds that the service may take for a caller who waits for `limit_s`."""
    own_s = limit_s - min(_LONGEST_WAY_BACK_S, limit_s * _WAY_BACK_SHARE)
    return min(max(int(own_s * 1000), 1), MOST_TIMEOUT_MS)


def refusal(answer: HttpAnswer, setting: str, *, is_load_balanced: bool = False) -> ClipClientError:
    """Return the error of an HTTP answer that is not a success; `setting` is what to check if it is a stranger's.

    RunPod's load balancer says 400 while no worker is up; those of the service itself are typed.
    """
    parsed = answer.json_or_none()
    wire = parsed.get("error") if isinstance(parsed, dict) else None
    error = error_from_wire(wire, retry_after_s=answer.retry_after_s)
    if error is None or (answer.status >= 500 and _is_unknown(error)):
        return _of_status(answer, setting, is_load_balanced)
    return error


def _is_unknown(error: ClipClientError) -> bool:
    return type(error) in (RetryableError, PermanentError)


def _of_status(answer: HttpAnswer, setting: str, is_load_balanced: bool) -> ClipClientError:
    """An answer that the service did not write: a proxy's page, or another server altogether."""
    status = answer.status
    if status == 400 and is_load_balanced:
        return NotReady("HTTP 400 from the load balancer: no worker is up", retry_after_s=answer.retry_after_s)
    if status == 408:
        return BackendTimeout("HTTP 408 from something in front of the service")
    if status == 429:
        return RateLimited("HTTP 429: too many requests", retry_after_s=answer.retry_after_s)
    if status >= 500:
        return GatewayFailed(
            f"HTTP {status} from something in front of the service", retry_after_s=answer.retry_after_s
        )
    if 300 <= status < 400:
        return BackendMisconfigured(f"HTTP {status}: redirects are not followed, check {setting}")
    if status >= 400:
        return BackendMisconfigured(f"HTTP {status} from something that is not the service, check {setting}")
    return UnreadableResponse(f"HTTP {status} without an answer")
