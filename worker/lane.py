"""A backend with all that is known of it: how to retry it, whether it is up, which model it serves."""

import logging
from dataclasses import dataclass, field
from typing import TypeVar

from worker.backends import Backend
from worker.breaker import Admission, Breaker
from worker.errors import ClipClientError
from worker.operations import Operation, Sign
from worker.responses import read_health
from worker.retry import RetryPolicy
from worker.values import Embedding, Health

logger = logging.getLogger(__name__)

# A caller waits for this while the backend is known to be in trouble.
_LEARN_TIMEOUT_S = 5.0

Result = TypeVar("Result")


@dataclass(slots=True)
class Lane:
    """`fingerprint` is the last one seen, in an answer or in health; None until then."""

    backend: Backend
    breaker: Breaker
    policy: RetryPolicy
    sign: Sign
    fingerprint: str | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return self.backend.name

    def call(self, operation: Operation[Result], admission: Admission | None) -> Result:
        """Send until it succeeds or the policy ends; every attempt is signed anew. Raises a `ClipClientError`.

        A probe is sent once: it asks a backend that was down, while another one is there to answer.
        """

        def attempt(left_s: float) -> Result:
            answer = self.backend.call(operation.path, operation.body(self.sign), timeout_s=left_s)
            return operation.read(answer, self.name)

        policy = self.policy.once() if admission is not None and admission.is_probe else self.policy
        result = policy.run(attempt)
        self._learn(_fingerprint_of(result))
        return result

    def health(self) -> Health:
        """Ask once, without retries: this is what probes and schedulers use. Raises a `ClipClientError`."""
        return self._ask_health(self.policy.total_s)

    def _ask_health(self, timeout_s: float) -> Health:
        health = read_health(self.backend.health(timeout_s=timeout_s), self.name)
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

    def _learn(self, fingerprint: str | None) -> None:
        if fingerprint is None or fingerprint == self.fingerprint:
            return
        if self.fingerprint is not None:
            logger.warning(
                "the model of a backend has changed",
                extra={"backend": self.name, "old_fingerprint": self.fingerprint, "new_fingerprint": fingerprint},
            )
        self.fingerprint = fingerprint


def _fingerprint_of(result: object) -> str | None:
    """The fingerprint of an embedding, or of the first embedding of a batch; None if all of it failed."""
    results = result if isinstance(result, list) else [result]
    return next((one.fingerprint for one in results if isinstance(one, Embedding)), None)
