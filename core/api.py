"""The operation table: what can be asked, and the one way from a request to its answer: parse, authenticate, run.

Both adapters look operations up here, so an operation is one row and exists on both, with the same checks.
Both belong on a thread: `prepare` waits for nothing, but decodes what was sent; `Call.run` blocks.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from core.batching.items import Modality
from core.deadline import Deadline
from core.embedder import Embedder, Wanted, WantedText
from core.errors import AuthExpired, AuthFailed, BatchTooLarge, NotFound, ServiceError, ValidationFailed
from core.images.content import SentImages, SentLimits
from core.settings import ServiceSettings
from core.wire.requests import (
    EMBED_IMAGE,
    EMBED_IMAGE_BATCH,
    EMBED_TEXT,
    EMBED_TEXT_BATCH,
    ImageBatchRequest,
    ImageRequest,
    Request,
    TextBatchRequest,
    TextRequest,
    validate,
)
from core.wire.responses import Body, ModelIdentity, batch_timings, embedding_body, item_body, text_body
from shared_auth import Authenticator, AuthError, ExpiredSignature, Signature, UnsignablePayload

AnyRequest = TypeVar("AnyRequest", bound=Request)


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model: what embeds, and what the answers say about it."""

    embedder: Embedder
    identity: ModelIdentity


@dataclass(frozen=True, slots=True)
class Operation(Generic[AnyRequest]):
    """A row of the table: `run` is called with a valid, authenticated request."""

    request: type[AnyRequest]
    run: Callable[[Model, AnyRequest, str, Deadline], Body]
    modality: Modality


def _embed_image(model: Model, request: ImageRequest, request_id: str, deadline: Deadline) -> Body:
    [result] = model.embedder.embed_images([Wanted(request.image, request.normalize)], deadline)
    if isinstance(result, ServiceError):
        raise result
    body = embedding_body(request_id, result, normalized=request.normalize, encoding=request.encoding_format)
    return body | model.identity.for_response()


def _embed_image_batch(model: Model, request: ImageBatchRequest, _request_id: str, deadline: Deadline) -> Body:
    started_s = time.monotonic()
    wanted = [Wanted(item.image, item.normalize) for item in request.items]
    results = model.embedder.embed_images(wanted, deadline)
    pairs = zip(request.items, results, strict=True)
    return {
        "results": [item_body(item, result, request.encoding_format) for item, result in pairs],
        **model.identity.for_response(),
        "batch_timings": batch_timings(results, (time.monotonic() - started_s) * 1000, _steps(request)),
    }


def _steps(request: ImageBatchRequest) -> tuple[str, ...]:
    """Which of a batch's steps have a total: nothing is downloaded where every image was sent."""
    is_downloaded = any(isinstance(item.image, str) for item in request.items)
    return ("download_ms", "inference_ms") if is_downloaded else ("inference_ms",)


def _embed_text(model: Model, request: TextRequest, request_id: str, deadline: Deadline) -> Body:
    [result] = model.embedder.embed_texts([WantedText(request.text, request.normalize)], deadline)
    if isinstance(result, ServiceError):
        raise result
    body = text_body(request_id, result, normalized=request.normalize, encoding=request.encoding_format)
    return body | model.identity.for_response()


def _embed_text_batch(model: Model, request: TextBatchRequest, _request_id: str, deadline: Deadline) -> Body:
    started_s = time.monotonic()
    results = model.embedder.embed_texts([WantedText(item.text, item.normalize) for item in request.items], deadline)
    pairs = zip(request.items, results, strict=True)
    return {
        "results": [item_body(item, result, request.encoding_format) for item, result in pairs],
        **model.identity.for_response(),
        "batch_timings": batch_timings(results, (time.monotonic() - started_s) * 1000, ("inference_ms",)),
    }


OPERATIONS: Mapping[str, Operation[Any]] = {
    EMBED_IMAGE: Operation(ImageRequest, _embed_image, Modality.IMAGE),
    EMBED_IMAGE_BATCH: Operation(ImageBatchRequest, _embed_image_batch, Modality.IMAGE),
    EMBED_TEXT: Operation(TextRequest, _embed_text, Modality.TEXT),
    EMBED_TEXT_BATCH: Operation(TextBatchRequest, _embed_text_batch, Modality.TEXT),
}


def max_batch_sizes(settings: ServiceSettings) -> Mapping[Modality, int]:
    """Items in one request, of each kind."""
    return {Modality.IMAGE: settings.max_batch_size, Modality.TEXT: settings.max_text_batch_size}


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request, ready to run."""

    request_id: str
    run: Callable[[], Body]
    """Blocks until the answer is there. Raises a `ServiceError`."""


class Api:
    """`authenticator` is None only where the service was started with ALLOW_INSECURE_AUTH."""

    def __init__(
        self,
        model: Model,
        authenticator: Authenticator | None,
        *,
        max_batch_sizes: Mapping[Modality, int],
        sent_limits: SentLimits,
        request_timeout_s: float,
    ) -> None:
        self._model = model
        self._authenticator = authenticator
        self._max_batch_sizes = max_batch_sizes
        self._sent_limits = sent_limits
        self._request_timeout_s = request_timeout_s

    def prepare(
        self, path: str, members: Mapping[str, Any], *, request_id: str, deadline: Deadline | None = None
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
        self._check_batch_size(members, self._max_batch_sizes[operation.modality])
        ends = deadline or Deadline.after(self._request_timeout_s)
        with ExitStack() as held:
            images = SentImages(self._sent_limits)
            held.callback(images.close)
            request = validate(operation.request, members, images)
            self._authenticate(path, request)
            images.seal()
            held.pop_all()

        def run() -> Body:
            with closing(images):
                return operation.run(self._model, request, request_id, ends)

        return Call(request_id, run)

    def _check_batch_size(self, members: Mapping[str, Any], most: int) -> None:
        """Before validation: a thousand items are not worth validating."""
        items = members.get("items")
        if isinstance(items, list) and len(items) > most:
            raise BatchTooLarge(f"a batch has at most {most} items")

    def _authenticate(self, path: str, request: Request) -> None:
        """Every item of a batch is signed by itself; one bad signature refuses the whole request."""
        if self._authenticator is None:
            return
        verify = self._authenticator.verify
        try:
            signatures = [verify(path, payload_id, auth) for payload_id, auth in request.signed_payloads()]
        except UnsignablePayload as error:
            raise ValidationFailed("the request holds text that is not valid Unicode") from error
        except ExpiredSignature as error:
            raise AuthExpired from error
        except AuthError as error:
            raise AuthFailed from error
        _refuse_repeated(signatures)


def _refuse_repeated(signatures: Sequence[Signature]) -> None:
    """Otherwise whoever has seen one signed item gets a whole batch of work for it in each request."""
    first: dict[Signature, int] = {}
    for position, signature in enumerate(signatures):
        if first.setdefault(signature, position) != position:
            raise ValidationFailed(
                f"items[{position}].auth: items[{first[signature]}] has the same signature; in a batch each has its own"
            )
