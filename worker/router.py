"""Chooses the lane of each call: the primary while it is up, else the fallback, if its vectors may be mixed in."""

import logging
import threading
from typing import TypeVar

from worker.breaker import Admission
from worker.errors import ClipClientError, FingerprintMismatch, FingerprintUnknown
from worker.lane import Lane
from worker.operations import Operation
from worker.values import Embedding

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Router:
    """Thread-safe.

    A call goes elsewhere only when the backend is at fault (no connection, no answer in time, overload, 5xx), after
    its retries; never for a refused request. Without a fallback every call goes to the primary, whatever came before.

    The next call after the cool-down is the probe of a primary that was down: it shows that vectors come, which its
    health alone would not. One call at a time is risked for that; if it fails, the fallback answers it.

    Vectors of the fallback are compared by fingerprint with `expected`, else with the last fingerprint seen from the
    primary. If there is neither, the fallback is not asked (`FingerprintUnknown`): a worker that has just started
    must not fill an index with vectors that nobody has compared.
    """

    def __init__(
        self, primary: Lane, fallback: Lane | None, *, expected_fingerprint: str | None, allow_mismatch: bool
    ) -> None:
        self._primary = primary
        self._fallback = fallback
        self._expected = expected_fingerprint
        self._allow_mismatch = allow_mismatch
        self._switches = 0
        self._lock = threading.Lock()

    @property
    def switches(self) -> int:
        """How often calls were moved from one backend to the other, both directions counted."""
        return self._switches

    def call(self, operation: Operation[Result]) -> Result:
        """Return the result of whichever backend answers. Raises a `ClipClientError`."""
        fallback = self._fallback
        if fallback is None:
            return self._checked(self._primary.call(operation, None), self._expected)
        admission = self._primary.breaker.admit()
        if admission is None:
            return self._call_fallback(fallback, operation, None)
        try:
            result = self._report(self._primary, operation, admission)
        except ClipClientError as error:
            if not error.unavailable:
                raise
            return self._call_fallback(fallback, operation, error)
        return self._checked(result, self._expected)

    def _call_fallback(self, fallback: Lane, operation: Operation[Result], cause: ClipClientError | None) -> Result:
        reference = self._reference()
        if reference is None and not self._allow_mismatch:
            raise FingerprintUnknown(
                f"{self._primary.name} is down and was never seen, so {fallback.name} cannot be compared with it:"
                " set CLIP_EXPECTED_FINGERPRINT to let it answer"
            ) from cause
        admission = fallback.breaker.admit()
        if admission is None:
            # Both are down. The primary has nothing to lose, and failing at once would empty a caller's queue.
            return self._last_resort(operation, cause)
        return self._checked(self._report(fallback, operation, admission), reference)

    def _last_resort(self, operation: Operation[Result], cause: ClipClientError | None) -> Result:
        if cause is not None:
            raise cause
        return self._checked(self._primary.call(operation, None), self._expected)

    def _report(self, lane: Lane, operation: Operation[Result], admission: Admission) -> Result:
        """Call, and tell the lane's breaker what came of it. A refused request is an answer too."""
        try:
            result = lane.call(operation, admission)
        except ClipClientError as error:
            if error.unavailable:
                self._note_failure(lane, admission)
            else:
                self._note_success(lane, admission)
            raise
        self._note_success(lane, admission)
        return result

    def _note_failure(self, lane: Lane, admission: Admission) -> None:
        if lane.breaker.failed(admission) and lane is self._primary and self._fallback is not None:
            self._note_switch(self._primary, self._fallback)

    def _note_success(self, lane: Lane, admission: Admission) -> None:
        if lane.breaker.succeeded(admission) and lane is self._primary and self._fallback is not None:
            self._note_switch(self._fallback, self._primary)

    def _note_switch(self, source: Lane, destination: Lane) -> None:
        with self._lock:
            self._switches += 1
        logger.warning("the backend was switched", extra={"from": source.name, "to": destination.name})

    def _reference(self) -> str | None:
        """What the fallback's vectors are compared with, or None if that is not known."""
        if self._expected is None and not self._allow_mismatch:
            self._primary.try_to_learn_fingerprint()
        return self._expected or self._primary.fingerprint

    def _checked(self, result: Result, reference: str | None) -> Result:
        """Return the result if its vectors are comparable. Raises `FingerprintMismatch`, which names both sides."""
        if reference is None or self._allow_mismatch:
            return result
        for one in result if isinstance(result, list) else [result]:
            if isinstance(one, Embedding) and one.fingerprint != reference:
                raise FingerprintMismatch(
                    f"{one.backend} answers with fingerprint {one.fingerprint}, expected {reference}"
                    f" ({'CLIP_EXPECTED_FINGERPRINT' if self._expected else self._primary.name})",
                    request_id=one.request_id,
                )
        return result
