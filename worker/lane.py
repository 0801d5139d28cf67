"""A backend with all that is known of it: how to retry it, whether it is up, which model it serves."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.backends import Backend
from worker.breaker import Admission, Breaker
from worker.errors import BackendOff, BackendTimeout, ClipClientError, ConfigurationError, RetryableError
from worker.fingerprints import Dimensions
from worker.operations import Operation, Sign
from worker.outcomes import Outcome, goes_again, is_down
from worker.responses import read_health
from worker.retry import RetryPolicy
from worker.values import Embedding, Health

logger = logging.getLogger(__name__)

# A caller waits for this while the backend is known to be in trouble.
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

    @property
    def name(self) -> str:
        return self.backend.name

    def call(self, operation: Operation, admission: Admission | None, until_s: float) -> list[Outcome]:
        """Return one outcome per item, in order, after as many attempts as the policy allows until `until_s`.

        Only what can still do better is sent again, signed anew; an attempt that fails as a whole fails for what it
        carried. A probe is over with an attempt that finds the backend down: another one is there to answer. Raises
        only `BackendOff` and `ConfigurationError`.
        """
        outcomes: list[Outcome] = [BackendTimeout("no attempt was made")] * len(operation.items)
        pending: list[int] = list(range(len(operation.items)))

        def attempt(left_s: float) -> Sequence[RetryableError]:
            results = self._results(operation.only(pending), left_s)
            for position, result in zip(pending, results, strict=True):
                outcomes[position] = result
            pending[:] = [position for position in pending if goes_again(outcomes[position])]
            if admission is not None and admission.is_probe and is_down(outcomes):
                return ()
            return list(filter(goes_again, outcomes))

        self.policy.run(attempt, until_s)
        return outcomes

    def _results(self, operation: Operation, timeout_s: float) -> list[Outcome]:
        try:
            return self._ask(operation, timeout_s)
        except (BackendOff, ConfigurationError):
            # Nothing was wrong with the items, and no item will ever do better: that is the caller's to know.
            raise
        except ClipClientError as error:
            return [error] * len(operation.items)

    def _ask(self, operation: Operation, timeout_s: float) -> list[Outcome]:
        answer = self.backend.call(operation.path, operation.body(self.sign), timeout_s=timeout_s)
        results = operation.read(answer, self.name)
        for result in results:
            if isinstance(result, Embedding):
                self.dimensions.check(result.fingerprint, result.vector.shape[0], result.request_id)
                self._learn(result.fingerprint)
        return results

    def health(self) -> Health:
        """Ask once, without retries: this is what probes and schedulers use. Raises a `ClipClientError`."""
        return self._ask_health(self.policy.total_s)

    def _ask_health(self, timeout_s: float) -> Health:
        health = read_health(self.backend.health(timeout_s=timeout_s), self.name)
        if health.fingerprint is not None:
            if health.dim is not None:
                self.dimensions.check(health.fingerprint, health.dim)
            self._learn(health.fingerprint)
        return health

    def try_to_learn_fingerprint(self) -> None:
        """Ask health for a fingerprint that was never seen; nothing changes if it cannot be had."""
        if self.fingerprint is not None:
            return
        try:
            self._ask_health(_LEARN_TIMEOUT_S)
        except ClipClientError as error:
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
