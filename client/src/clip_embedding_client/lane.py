"""A backend with all that is known of it: how to retry it, whether it is up, which model it serves."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from clip_embedding_client.backends import Backend
from clip_embedding_client.breaker import Admission, Breaker
from clip_embedding_client.effects import Flow
from clip_embedding_client.errors import BackendOff, BackendTimeout, ClipClientError, ConfigurationError, RetryableError
from clip_embedding_client.fingerprints import Dimensions
from clip_embedding_client.operations import Operation, Sign
from clip_embedding_client.outcomes import goes_again, is_down
from clip_embedding_client.responses import read_health
from clip_embedding_client.retry import Budget, RetryPolicy
from clip_embedding_client.values import Embedding, Health, Outcome

logger = logging.getLogger(__name__)

# A caller waits for this, and for half of its seconds at most, while the backend is known to be in trouble.
_LEARN_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Lane:
    """`fingerprint` is the last one seen, in an answer or in health; None until then.

    `dimensions` is shared by all lanes: one fingerprint has one number of them, whoever answers.
    """

    backend: Backend
    breaker: Breaker
    policy: RetryPolicy
    sign: Sign
    dimensions: Dimensions
    fingerprint: str | None = field(default=None, init=False)
    _unknown_since_s: float = field(default=-math.inf, init=False)

    @property
    def name(self) -> str:
        return self.backend.name

    def call(self, operation: Operation, admission: Admission | None, budget: Budget) -> Flow[list[Outcome]]:
        """Return one outcome per item, in order, after as many attempts as the budget allows.

        Only what can still do better is sent again, signed anew; an attempt that fails as a whole fails for what it
        carried. A probe is over with an attempt that finds the backend down: another one is there to answer. Raises
        only `BackendOff` and `ConfigurationError`.
        """
        outcomes: list[Outcome] = [BackendTimeout("no attempt was made")] * len(operation.request_ids)
        pending: list[int] = list(range(len(operation.request_ids)))

        def attempt(left_s: float) -> Flow[Sequence[RetryableError]]:
            results = yield from self._results(operation.only(pending), left_s)
            for position, result in zip(pending, results, strict=True):
                outcomes[position] = result
            pending[:] = [position for position in pending if goes_again(outcomes[position])]
            if admission is not None and admission.is_probe and is_down(outcomes):
                return ()
            return list(filter(goes_again, outcomes))

        yield from self.policy.run(attempt, budget, self.name)
        return outcomes

    def _results(self, operation: Operation, timeout_s: float) -> Flow[list[Outcome]]:
        try:
            return (yield from self._ask(operation, timeout_s))
        except (BackendOff, ConfigurationError):
            # Nothing was wrong with the items, and no item will ever do better: that is the caller's to know.
            raise
        except ClipClientError as error:
            return [error] * len(operation.request_ids)

    def _ask(self, operation: Operation, timeout_s: float) -> Flow[list[Outcome]]:
        answer = yield from self.backend.call(operation.path, operation.body(self.sign), timeout_s=timeout_s)
        results = operation.read(answer, self.name)
        for result in results:
            if isinstance(result, Embedding):
                self.dimensions.check(result.fingerprint, result.vector.shape[0], result.request_id)
                self._learn(result.fingerprint)
        return results

    def health(self, timeout_s: float) -> Flow[Health]:
        """Ask once, without retries: this is what probes and schedulers use. Raises a `ClipClientError`."""
        answer = yield from self.backend.health(timeout_s=timeout_s)
        health = read_health(answer, self.name)
        if health.fingerprint is not None:
            if health.dim is not None:
                self.dimensions.check(health.fingerprint, health.dim)
            self._learn(health.fingerprint)
        return health

    def try_to_learn_fingerprint(self, budget: Budget) -> Flow[None]:
        """Ask health for a fingerprint that was never seen; nothing changes if it cannot be had, and then it is asked
        again when the breaker would ask.
        """
        now_s = self.policy.clock.monotonic()
        if self.fingerprint is not None or now_s - self._unknown_since_s < self.breaker.cool_down_s:
            return
        if not self.policy.has_room(budget.until_s):
            return
        try:
            yield from self.health(min(_LEARN_TIMEOUT_S, (budget.until_s - now_s) / 2))
        except ClipClientError as error:
            self._unknown_since_s = self.policy.clock.monotonic()
            logger.debug("health could not be asked", extra={"backend": self.name, "code": error.code})

    def _learn(self, fingerprint: str) -> None:
        if fingerprint == self.fingerprint:
            return
        if self.fingerprint is not None:
            logger.warning(
                "the model of a backend has changed",
                extra={"backend": self.name, "old_fingerprint": self.fingerprint, "new_fingerprint": fingerprint},
            )
        self.fingerprint = fingerprint
