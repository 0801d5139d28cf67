"""What a caller wants to know besides results: told to a callback, and counted."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clip_embedding_client.errors import ClipClientError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Switched:
    """Calls go to another backend from now on."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Retried:
    """`items` of a call are sent to the same backend again, after `pause_s`. `code` is the first one's error."""

    backend: str
    code: str
    items: int
    attempt: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class MixRefused:
    """`items` came with vectors that must not be mixed with those of `expected`, and are errors now."""

    backend: str
    expected: str
    answered: str
    items: int


Event = Switched | Retried | MixRefused
OnEvent = Callable[[Event], object]

OnProgress = Callable[[int, int], object]
"""(results so far, how many there will be). Called where the results are collected."""


class Events:
    """Thread-safe. What the callback raises is logged and harms no call."""

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event = on_event
        self._counts = Counter({"switches": 0, "retries": 0, "refused_mixes": 0})
        self._lock = threading.Lock()

    def counters(self) -> Mapping[str, int]:
        """Totals since the client was made: switches, retried items, and items whose vectors were refused."""
        with self._lock:
            return dict(self._counts)

    def switched(self, source: str, destination: str) -> None:
        logger.warning("the backend was switched", extra={"from": source, "to": destination})
        self._tell("switches", 1, Switched(source, destination))

    def retried(self, backend: str, errors: Sequence[ClipClientError], attempt: int, pause_s: float) -> None:
        self._tell("retries", len(errors), Retried(backend, errors[0].code, len(errors), attempt, pause_s))

    def refused(self, backend: str, expected: str, answered: str, items: int) -> None:
        self._tell("refused_mixes", items, MixRefused(backend, expected, answered, items))

    def _tell(self, name: str, count: int, event: Event) -> None:
        with self._lock:
            self._counts[name] += count
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("the callback for events failed")
