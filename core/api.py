"""The one way from a request to its answer: parse, authenticate, run. What can be asked is in `core/operations.py`.

`prepare` is quick and never blocks; `Call.run` blocks and belongs on a thread.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.access import NONE, Access, Credentials
from core.deadline import Deadline
from core.errors import BatchTooLarge, NotFound, ServiceError
from core.operations import OPERATIONS, Model, Proof
from core.wire.openai import MODELS, models_body, openai_error_body
from core.wire.requests import validate
from core.wire.responses import Body, error_body


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request, ready to run. `client` is the name of who asks, None where nobody has to say."""

    request_id: str
    client: str | None
    run: Callable[[], Body]
    """Blocks until the answer is there. Raises a `ServiceError`."""


class Api:
    """Over one model, for those whom `access` lets in."""

    def __init__(self, model: Model, access: Access, *, request_timeout_s: float) -> None:
        self._model = model
        self._access = access
        self._request_timeout_s = request_timeout_s

    def prepare(
        self,
        path: str,
        members: Mapping[str, Any],
        *,
        request_id: str,
        deadline: Deadline | None = None,
        credentials: Credentials = NONE,
    ) -> Call:
        """Check a request and return the call that answers it; `request_id` goes into the answer.

        Without a `deadline` of its own it has the service's time for a request, from now.

        Raises `NotFound`, `BatchTooLarge`, `ValidationFailed`, `AuthFailed` or `AuthExpired`.
        """
        operation = OPERATIONS.get(path)
        if operation is None:
            raise NotFound
        by_key = operation.proof is Proof.KEY
        # A key is known before the request is looked at, a signature only when its payload is.
        client = self._access.of_key(credentials) if by_key else None
        _check_batch_size(members.get(operation.listed), self._model.max_batch_sizes[operation.modality])
        request = validate(operation.request, members)
        client = client if by_key else self._access.of_signatures(path, request)
        ends = deadline or Deadline.after(self._request_timeout_s)
        return Call(request_id, client, lambda: operation.run(self._model, request, request_id, ends))

    def models(self, credentials: Credentials) -> Body:
        """The answer to `GET /v1/models`. Raises what `Access.of_key` does."""
        self._access.of_key(credentials)
        return models_body(self._model.identity)


def errors_of(path: str) -> Callable[[ServiceError, str], Body]:
    """How errors of the operation at `path` are written."""
    if path == MODELS:
        return openai_error_body
    operation = OPERATIONS.get(path)
    return error_body if operation is None else operation.error_body


def _check_batch_size(items: object, most: int) -> None:
    """Before validation: a thousand items are not worth validating."""
    if isinstance(items, list) and len(items) > most:
        raise BatchTooLarge(f"a batch has at most {most} items")
