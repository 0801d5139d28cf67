"""The one way from a request to its answer: parse, authenticate, limit, run. What can be asked is in
`core/operations.py`.

Both belong on a thread: `prepare` waits for nothing, but decodes what was sent; `Call.run` blocks.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.access import NONE, Access, Credentials
from core.answered import Answered, Counting
from core.asked import Asked
from core.deadline import Deadline
from core.errors import BatchTooLarge, NotFound, RateLimited, ServiceError
from core.images.content import SentImages, SentLimits
from core.metrics import Reading
from core.operations import OPERATIONS, Model, Proof
from core.standing import Standing
from core.wire.openai import MODELS, models_body, openai_error_body
from core.wire.requests import Request, validate
from core.wire.responses import Body, error_body
from shared_auth import DEFAULT_CLIENT

if TYPE_CHECKING:
    from core.rate_limits import RateLimits


def _unlimited() -> None:
    """Nobody counts."""


@dataclass(slots=True)
class Call:
    """An authenticated request, ready to run. `client` is the name of who asks, None where nobody has to say.
    `counting` has a name in any case, and knows what became of the items once the request has been run.
    """

    request_id: str
    client: str | None
    counting: Counting
    answer: Callable[[], Body]
    limit: Callable[[], Standing | None] = _unlimited
    held: ExitStack = field(default_factory=ExitStack)
    """The images that were sent; let go of when it has been run."""
    standing: Standing | None = field(default=None, init=False)
    """Of the client, once `run` has asked for it; None where nobody counts."""

    def run(self) -> Body:
        """Block until the answer is there. Raises a `ServiceError`; `RateLimited` before anything is done."""
        with self.held:
            try:
                self.standing = self.limit()
            except RateLimited as refused:
                self.standing = refused.standing
                raise
            return self.answer()


class Api:
    """Over one model, for those whom `access` lets in, and as much as `rate_limits` let each have. It counts both."""

    def __init__(
        self,
        model: Model,
        access: Access,
        *,
        sent_limits: SentLimits,
        request_timeout_s: float,
        rate_limits: "RateLimits | None" = None,
    ) -> None:
        self._model = model
        self._access = access
        self._sent_limits = sent_limits
        self._request_timeout_s = request_timeout_s
        self._rate_limits = rate_limits
        self._asked = Asked()
        self._answered = Answered()

    def prepare(
        self,
        path: str,
        members: Mapping[str, Any],
        *,
        request_id: str,
        deadline: Deadline | None = None,
        credentials: Credentials = NONE,
    ) -> Call:
        """Check a request and return the call that answers it; `request_id` goes into the answer. What `members` hold
        of images has been copied then, and the call lets go of it when it has been run.

        Without a `deadline` of its own it has the service's time for a request, from now.

        Raises `NotFound`, `BatchTooLarge`, `ValidationFailed`, `AuthFailed`, `AuthExpired`, or `Overloaded` when
        there is no room for the images that were sent.
        """
        operation = OPERATIONS.get(path)
        if operation is None:
            raise NotFound
        by_key = operation.proof is Proof.KEY
        # A key is known before the request is looked at, a signature only when its payload is.
        client = self._access.of_key(credentials) if by_key else None
        _check_batch_size(members.get(operation.listed), self._model.max_batch_sizes[operation.modality])
        ends = deadline or Deadline.after(self._request_timeout_s)
        with ExitStack() as held:
            images = SentImages(self._sent_limits)
            held.callback(images.close)
            request = validate(operation.request, members, images)
            client = client if by_key else self._access.of_signatures(path, request)
            images.seal()
            name = client or DEFAULT_CLIENT
            counting = Counting(self._model.embedder, self._answered, name)
            model = Model(counting, self._model.identity, self._model.max_batch_sizes)
            return Call(
                request_id,
                client,
                counting,
                lambda: operation.run(model, request, request_id, ends),
                lambda: self._limit(name, request),
                held.pop_all(),
            )

    def _limit(self, name: str, request: Request) -> Standing | None:
        """Asks a store, so it is part of the call and not of `prepare`. Raises `RateLimited`."""
        items, bytes_ = request.measure()
        try:
            standing = self._rate_limits.check(name, items, bytes_) if self._rate_limits else None
        except RateLimited:
            self._asked.note(name, items, limited=True)
            raise
        self._asked.note(name, items, limited=False)
        return standing

    def readings(self) -> Iterator[Reading]:
        """Who has asked for how much, what became of it, and what is held of images that were sent, for metrics."""
        yield from self._asked.readings()
        yield from self._answered.readings()
        yield from self._sent_limits.budget.readings("sent_images")

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
