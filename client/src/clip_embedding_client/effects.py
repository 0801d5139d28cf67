"""What the client's policy asks of the world, and how it asks: flows that yield an effect and are sent its result.

A flow holds every rule and does no input or output; a driver, one with threads and one with asyncio, does what each
effect says, sends the result back, or throws the error in. So a rule is written, and tested, once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from clip_embedding_client.errors import UnreadableResponse

Result = TypeVar("Result")

# A batch of 256 vectors is 0.7 MB in base64; RunPod itself stops at 20 MB.
MAX_RESPONSE_BYTES = 32 * 1024 * 1024

_LIGHT_CHARACTERS = 65_536


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send a request of `backend` and wait for the whole answer, for `timeout_s` in total. Any status is an answer.

    One that `undoes` something, a job, is sent by a closed client for threads too.

    Its result is an `HttpAnswer`; it may raise `ConnectionFailed`, `BackendTimeout` or `UnreadableResponse`.
    """

    method: str
    url: str
    timeout_s: float
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    backend: str = ""
    undoes: bool = False

    def data(self) -> bytes | None:
        """The body as JSON."""
        return None if self.body is None else json.dumps(self.body).encode()

    @property
    def is_heavy(self) -> bool:
        """Whether its body takes so long to write that an event loop should not do it."""
        return any(len(str(each.get("image_b64", ""))) > _LIGHT_CHARACTERS for each in self._items())

    def _items(self) -> Sequence[Mapping[str, Any]]:
        body = self.body or {}
        members: Mapping[str, Any] = body.get("input", body)
        items: Sequence[Mapping[str, Any]] = members.get("items", [members])
        return items

    def carrying(self, context: Mapping[str, str]) -> Exchange:
        """Return the same with a trace's context: in a job's input, for whoever runs it, else in the headers. What has
        no body asks for nothing that is traced.
        """
        if self.body is None:
            return self
        if "input" in self.body:
            return replace(self, body={**self.body, "input": {**self.body["input"], **context}})
        return replace(self, headers={**self.headers, **context})

    def all_headers(self) -> dict[str, str]:
        """With those that every request has. No encoding is asked for: of an encoded body `MAX_RESPONSE_BYTES` would
        bound what is sent, not what it becomes.
        """
        return {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            **self.headers,
        }


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class InProcess:
    """Call something that blocks. `abandon` makes it end early; it is called when nobody waits any more."""

    call: Callable[[], object]
    abandon: Callable[[], object]


Effect = Exchange | Pause | InProcess
Flow = Generator[Effect, Any, Result]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole response, or its head where the body `is_encoded`: `data` is None then, nobody has read it."""

    status: int
    data: bytes | None
    retry_after_s: float | None

    @classmethod
    def of(cls, status: int, data: bytes | None, headers: Mapping[str, str]) -> HttpAnswer:
        return cls(status, data, _retry_after_s(headers))

    def json(self) -> Any:  # noqa: ANN401
        """Return the parsed body. Raises `UnreadableResponse`."""
        if self.data is None:
            raise UnreadableResponse(f"HTTP {self.status} in a content encoding that was not asked for")
        if not self.data:
            raise UnreadableResponse(f"HTTP {self.status} with an empty body")
        try:
            return json.loads(self.data)
        # RecursionError: a body that is nothing but brackets.
        except (ValueError, RecursionError) as error:
            raise UnreadableResponse(f"HTTP {self.status} with a body that is not JSON") from error

    def json_or_none(self) -> Any:  # noqa: ANN401
        """Return the parsed body, or None if it is not JSON: a proxy's page, an empty or encoded body."""
        with suppress(UnreadableResponse):
            return self.json()
        return None


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Whether a body is in an encoding although none was asked for. Then a driver does not read it."""
    return headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, which is what the service and RunPod send. The form with a date counts as absent."""
    value = headers.get("Retry-After", "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else None
