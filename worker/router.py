"""Chooses the lane of each call: the primary while it is up, else the fallback, if its vectors may be mixed in."""

import logging
import threading
from collections.abc import Mapping, Sequence

from worker.breaker import Admission
from worker.errors import ClipClientError, ConfigurationError, FingerprintMismatch, FingerprintUnknown
from worker.fingerprints import EXPECTED_SETTING, why_they_differ
from worker.lane import Lane
from worker.operations import Operation
from worker.outcomes import Outcome, goes_elsewhere, is_down
from worker.retry import RetryPolicy
from worker.values import Embedding

logger = logging.getLogger(__name__)


class Router:
    """Thread-safe.

    An item goes elsewhere only when the backend is at fault (no connection, no answer in time, overload, 5xx, a model
    that failed on it), after its retries; never when it was refused. Whatever the first backend did answer is kept.
    Without a fallback every call goes to the primary, whatever came before.

    The next call after the cool-down is the probe of a primary that was down: it shows that vectors come, which its
    health alone would not. One call at a time is risked for that; if it fails, the fallback answers it.

    Vectors of the fallback are compared by fingerprint with `expected`, else with the last fingerprint seen from the
    primary. If there is neither, the fallback is not asked (`FingerprintUnknown`): a worker that has just started
    must not fill an index with vectors that nobody has compared.

    A call's seconds are those of the policy, both backends together. The primary leaves `reserve_s` of them, so that
    one that hangs does not use up the fallback's.
    """

    def __init__(
        self,
        primary: Lane,
        fallback: Lane | None,
        *,
        policy: RetryPolicy,
        reserve_s: float,
        expected_fingerprint: str | None,
        allow_mismatch: bool,
    ) -> None:
        self._primary = primary
        self._fallback = fallback
        self._policy = policy
        self._reserve_s = reserve_s
        self._expected = expected_fingerprint
        self._allow_mismatch = allow_mismatch
        self._switches = 0
        self._lock = threading.Lock()

    @property
    def switches(self) -> int:
        """How often calls were moved from one backend to the other, both directions counted."""
        return self._switches

    def call(self, operation: Operation) -> list[Outcome]:
        """Return one outcome per item, in order. Raises only `BackendOff` and `ConfigurationError`."""
        until_s = self._policy.until_s()
        fallback = self._fallback
        if fallback is None:
            return self._call_primary(operation, until_s)
        admission = self._primary.breaker.admit()
        if admission is None:
            return self._call_fallback(fallback, operation, None, until_s)
        outcomes = self._report(self._primary, operation, admission, until_s - self._reserve_s)
        outcomes = self._checked(outcomes, self._expected)
        moved = {position: outcome for position, outcome in enumerate(outcomes) if goes_elsewhere(outcome)}
        if moved:
            for position, outcome in zip(moved, self._move(fallback, operation, moved, until_s), strict=True):
                outcomes[position] = outcome
        return outcomes

    def _move(
        self, fallback: Lane, operation: Operation, moved: Mapping[int, ClipClientError], until_s: float
    ) -> list[Outcome]:
        """Return the fallback's outcomes for the items that the primary could not serve, by position."""
        try:
            return self._call_fallback(fallback, operation.only(list(moved)), list(moved.values()), until_s)
        except ConfigurationError as error:
            if len(moved) == len(operation.items):
                raise
            # A fallback that cannot start is no reason to throw away what the primary has answered.
            return [error] * len(moved)

    def _call_primary(self, operation: Operation, until_s: float) -> list[Outcome]:
        return self._checked(self._primary.call(operation, None, until_s), self._expected)

    def _call_fallback(
        self, fallback: Lane, operation: Operation, causes: Sequence[ClipClientError] | None, until_s: float
    ) -> list[Outcome]:
        """Ask the fallback about items that the primary could not serve, or, without `causes`, was not asked about."""
        reference = self._reference()
        if reference is None and not self._allow_mismatch:
            return self._unknown(fallback, operation, causes)
        if causes is not None and not self._policy.has_room(until_s):
            return list(causes)
        admission = fallback.breaker.admit()
        if admission is None:
            # Both are down. The primary has nothing to lose, and failing at once would empty a caller's queue.
            return list(causes) if causes is not None else self._call_primary(operation, until_s)
        return self._checked(self._report(fallback, operation, admission, until_s), reference)

    def _unknown(self, fallback: Lane, operation: Operation, causes: Sequence[ClipClientError] | None) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for position, item in enumerate(operation.items):
            error = FingerprintUnknown(
                f"{self._primary.name} is down and was never seen, so {fallback.name} cannot be compared with it:"
                f" set {EXPECTED_SETTING} to let it answer",
                request_id=item.request_id,
            )
            error.__cause__ = causes[position] if causes is not None else None
            outcomes.append(error)
        return outcomes

    def _report(self, lane: Lane, operation: Operation, admission: Admission, until_s: float) -> list[Outcome]:
        """Call, and tell the lane's breaker what came of it."""
        outcomes = lane.call(operation, admission, until_s)
        if is_down(outcomes):
            self._note_failure(lane, admission)
        else:
            self._note_success(lane, admission)
        return outcomes

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

    def _checked(self, outcomes: Sequence[Outcome], reference: str | None) -> list[Outcome]:
        """Return the outcomes with `FingerprintMismatch`, which names both sides, for vectors not to be mixed in."""
        if reference is None or self._allow_mismatch:
            return list(outcomes)
        return [
            self._mismatch(outcome, reference)
            if isinstance(outcome, Embedding) and outcome.fingerprint != reference
            else outcome
            for outcome in outcomes
        ]

    def _mismatch(self, embedding: Embedding, reference: str) -> FingerprintMismatch:
        setting = EXPECTED_SETTING if self._expected else None
        return FingerprintMismatch(
            f"{embedding.backend} answers with fingerprint {embedding.fingerprint}, expected {reference}"
            f" ({setting or self._primary.name}){why_they_differ(reference, embedding.fingerprint, setting)}",
            request_id=embedding.request_id,
        )
