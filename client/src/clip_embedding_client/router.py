"""Chooses the lane of each call: the primary while it is up, else the fallback, if its vectors may be mixed in."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from clip_embedding_client.breaker import Admission
from clip_embedding_client.effects import Flow
from clip_embedding_client.errors import (
    ClientClosed,
    ClipClientError,
    ConfigurationError,
    FingerprintMismatch,
    FingerprintUnknown,
    SetupError,
)
from clip_embedding_client.fingerprints import EXPECTED_SETTING, why_they_differ
from clip_embedding_client.lane import Lane
from clip_embedding_client.operations import Operation
from clip_embedding_client.outcomes import goes_elsewhere, is_down
from clip_embedding_client.retry import Budget, RetryPolicy
from clip_embedding_client.values import Embedding, Outcome

# However long an attempt at the fallback may take, the primary keeps a third of a call's seconds.
_MOST_RESERVED = 2 / 3


class Router:
    """Thread-safe.

    An item goes elsewhere only when the backend is at fault (no connection, no answer in time, overload, 5xx, a model
    that failed on it), after its retries; never when it was refused. Whatever the first backend did answer is kept, and
    so is its error where the fallback did not come to look at the item.
    Without a fallback every call goes to the primary, whatever came before.

    The next call after the cool-down is the probe of a primary that was down: it shows that vectors come, which its
    health alone would not. One call at a time is risked for that; if it fails, the fallback answers it.

    Vectors of the fallback are compared by fingerprint with `expected`, else with the last fingerprint seen from the
    primary. If there is neither, the fallback is not asked (`FingerprintUnknown`): a process that has just started
    must not fill an index with vectors that nobody has compared.

    A call's seconds are those of its budget, both backends together. The primary leaves `reserve_s` of them, so that
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

    def call(self, operation: Operation, budget: Budget) -> Flow[list[Outcome]]:
        """Return one outcome per item, in order. Raises only `BackendOff` and `ConfigurationError`."""
        fallback = self._fallback
        if fallback is None:
            return (yield from self._call_primary(operation, budget))
        admission = self._primary.breaker.admit()
        if admission is None:
            return (yield from self._call_fallback(fallback, operation, None, budget))
        outcomes = yield from self._report(self._primary, operation, admission, self._without_reserve(budget))
        outcomes = self._checked(outcomes, self._expected)
        moved = {position: outcome for position, outcome in enumerate(outcomes) if goes_elsewhere(outcome)}
        if moved:
            left, causes = operation.only(list(moved)), list(moved.values())
            elsewhere = yield from self._call_fallback(fallback, left, causes, budget)
            for position, outcome in zip(moved, elsewhere, strict=True):
                outcomes[position] = _last_word(moved[position], outcome)
        return outcomes

    def _without_reserve(self, budget: Budget) -> Budget:
        """What is left of it for the primary; at most two thirds of a short one are kept for the fallback."""
        left_s = budget.until_s - self._policy.clock.monotonic()
        return replace(budget, until_s=budget.until_s - min(self._reserve_s, left_s * _MOST_RESERVED))

    def _call_primary(self, operation: Operation, budget: Budget) -> Flow[list[Outcome]]:
        return self._checked((yield from self._primary.call(operation, None, budget)), self._expected)

    def _call_fallback(
        self, fallback: Lane, operation: Operation, causes: Sequence[ClipClientError] | None, budget: Budget
    ) -> Flow[list[Outcome]]:
        """Ask the fallback about items that the primary could not serve, or, without `causes`, was not asked about."""
        reference = yield from self._reference(budget)
        if reference is None and not self._allow_mismatch:
            return self._unknown(fallback, operation, causes)
        if causes is not None and not self._policy.has_room(budget.until_s):
            return list(causes)
        admission = fallback.breaker.admit()
        if admission is None:
            # Both are down. The primary has nothing to lose, and failing at once would empty a caller's queue.
            return list(causes) if causes is not None else (yield from self._call_primary(operation, budget))
        try:
            outcomes = self._checked((yield from self._report(fallback, operation, admission, budget)), reference)
        except ClientClosed:
            raise
        except ConfigurationError as error:
            # It cannot start, which takes its time on each try; the primary may be back in a minute.
            self._note_failure(fallback, admission)
            outcomes = [error] * len(operation.request_ids)
        if causes is None and all(isinstance(outcome, SetupError) for outcome in outcomes):
            # As good as down.
            of_primary = yield from self._call_primary(operation, budget)
            return list(map(_last_word, of_primary, outcomes))
        return outcomes

    def _unknown(self, fallback: Lane, operation: Operation, causes: Sequence[ClipClientError] | None) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for position, request_id in enumerate(operation.request_ids):
            error = FingerprintUnknown(
                f"{self._primary.name} is down and was never seen, so {fallback.name} cannot be compared with it:"
                f" set {EXPECTED_SETTING} to let it answer",
                request_id=request_id,
            )
            error.__cause__ = causes[position] if causes is not None else None
            outcomes.append(error)
        return outcomes

    def _report(self, lane: Lane, operation: Operation, admission: Admission, budget: Budget) -> Flow[list[Outcome]]:
        """Call, and tell the lane's breaker what came of it."""
        outcomes = yield from lane.call(operation, admission, budget)
        if is_down(outcomes):
            self._note_failure(lane, admission)
        else:
            self._note_success(lane, admission)
        return outcomes

    def _note_failure(self, lane: Lane, admission: Admission) -> None:
        if lane.breaker.failed(admission) and lane is self._primary and self._fallback is not None:
            self._policy.events.switched(self._primary.name, self._fallback.name)

    def _note_success(self, lane: Lane, admission: Admission) -> None:
        if lane.breaker.succeeded(admission) and lane is self._primary and self._fallback is not None:
            self._policy.events.switched(self._fallback.name, self._primary.name)

    def _reference(self, budget: Budget) -> Flow[str | None]:
        """What the fallback's vectors are compared with, or None if that is not known."""
        if self._expected is None and not self._allow_mismatch:
            yield from self._primary.try_to_learn_fingerprint(budget)
        return self._expected or self._primary.fingerprint

    def _checked(self, outcomes: Sequence[Outcome], reference: str | None) -> list[Outcome]:
        """Return the outcomes with `FingerprintMismatch`, which names both sides, for vectors not to be mixed in."""
        if reference is None or self._allow_mismatch:
            return list(outcomes)
        checked: list[Outcome] = []
        refused = Counter[tuple[str, str]]()
        for outcome in outcomes:
            if isinstance(outcome, Embedding) and outcome.fingerprint != reference:
                refused[outcome.backend, outcome.fingerprint] += 1
                checked.append(self._mismatch(outcome, reference))
            else:
                checked.append(outcome)
        for (backend, answered), items in refused.items():
            self._policy.events.refused(backend, reference, answered, items)
        return checked

    def _mismatch(self, embedding: Embedding, reference: str) -> FingerprintMismatch:
        setting = EXPECTED_SETTING if self._expected else None
        return FingerprintMismatch(
            f"{embedding.backend} answers with fingerprint {embedding.fingerprint}, expected {reference}"
            f" ({setting or self._primary.name}){why_they_differ(reference, embedding.fingerprint, setting)}",
            request_id=embedding.request_id,
        )


def _last_word(of_primary: Outcome, of_fallback: Outcome) -> Outcome:
    """What a caller learns of an item that both were asked about. The other error is its cause."""
    if isinstance(of_primary, Embedding):
        return of_primary
    if isinstance(of_fallback, Embedding) or of_fallback is of_primary:
        return of_fallback
    # A fallback whose key has expired does not make an item hopeless that the primary may have in a minute.
    last, other = (of_primary, of_fallback) if isinstance(of_fallback, SetupError) else (of_fallback, of_primary)
    # A copy: one error may be that of many items. Where it came from in a library says less: its message does.
    word = copy.copy(last)
    word.__cause__ = other
    return word
