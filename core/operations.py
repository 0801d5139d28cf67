"""The operation table: what can be asked, on pod and handler alike. An operation is one row."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from core.answered import Embeds
from core.batching.items import Modality
from core.deadline import Deadline
from core.embedder import Wanted, WantedText
from core.embedding import Embedding
from core.errors import BatchTooLarge, ServiceError
from core.settings import ServiceSettings
from core.wire.openai import (
    EMBEDDINGS,
    EmbeddingsRequest,
    TextInput,
    check_model,
    embeddings_body,
    openai_error_body,
)
from core.wire.requests import (
    ImageBatchRequest,
    ImageItem,
    ImageRequest,
    Request,
    TextBatchRequest,
    TextItem,
    TextRequest,
)
from core.wire.responses import Body, ModelIdentity, batch_timings, embedding_body, error_body, item_body, text_body
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH

AnyRequest = TypeVar("AnyRequest", bound=Request)


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model: what embeds, and what the answers say about it."""

    embedder: Embeds
    identity: ModelIdentity
    max_batch_sizes: Mapping[Modality, int]


class Proof(Enum):
    """How a caller shows who it is."""

    SIGNATURE = "signature"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Operation(Generic[AnyRequest]):
    """A row of the table: `run` is called with a valid, authenticated request. `name` is what metrics call it.

    `listed` is the member that holds the items of a batch, as many as one request may have of `modality`.
    """

    name: str
    request: type[AnyRequest]
    run: Callable[[Model, AnyRequest, str, Deadline], Body]
    modality: Modality
    proof: Proof = Proof.SIGNATURE
    listed: str = "items"
    error_body: Callable[[ServiceError, str], Body] = error_body


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
    return _batch_body(model, request, results, _steps(request), started_s)


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
    return _batch_body(model, request, results, ("inference_ms",), started_s)


def _batch_body(
    model: Model,
    request: ImageBatchRequest | TextBatchRequest,
    results: Sequence[Embedding | ServiceError],
    steps: Sequence[str],
    started_s: float,
) -> Body:
    """One result per item, in order; `steps` are those that have a total."""
    items: Sequence[ImageItem | TextItem] = request.items
    pairs = zip(items, results, strict=True)
    return {
        "results": [item_body(item, result, request.encoding_format) for item, result in pairs],
        **model.identity.for_response(),
        "batch_timings": batch_timings(results, (time.monotonic() - started_s) * 1000, steps),
    }


def _embeddings(model: Model, request: EmbeddingsRequest, _request_id: str, deadline: Deadline) -> Body:
    check_model(request, model.identity)
    inputs = request.inputs
    texts = {position: one for position, one in enumerate(inputs) if isinstance(one, TextInput)}
    images = {position: one for position, one in enumerate(inputs) if not isinstance(one, TextInput)}
    most = model.max_batch_sizes[Modality.IMAGE]
    if len(images) > most:
        raise BatchTooLarge(f"a request has at most {most} images")
    results: dict[int, Embedding | ServiceError] = {}
    if images:
        wanted = [Wanted(one.image, normalize=True) for one in images.values()]
        results |= zip(images, model.embedder.embed_images(wanted, deadline), strict=True)
    if texts:
        words = [WantedText(one.text, normalize=True) for one in texts.values()]
        results |= zip(texts, model.embedder.embed_texts(words, deadline), strict=True)
    return embeddings_body(request, [results[position] for position in range(len(inputs))], model.identity)


OPERATIONS: Mapping[str, Operation[Any]] = {
    EMBED_IMAGE: Operation("image", ImageRequest, _embed_image, Modality.IMAGE),
    EMBED_IMAGE_BATCH: Operation("images", ImageBatchRequest, _embed_image_batch, Modality.IMAGE),
    EMBED_TEXT: Operation("text", TextRequest, _embed_text, Modality.TEXT),
    EMBED_TEXT_BATCH: Operation("texts", TextBatchRequest, _embed_text_batch, Modality.TEXT),
    EMBEDDINGS: Operation(
        "embeddings",
        EmbeddingsRequest,
        _embeddings,
        Modality.TEXT,
        proof=Proof.KEY,
        listed="input",
        error_body=openai_error_body,
    ),
}


def max_batch_sizes(settings: ServiceSettings) -> Mapping[Modality, int]:
    """Items in one request, of each kind; never more than there are places, which no repetition would make fit."""
    places = settings.max_queued_items
    return {
        Modality.IMAGE: min(settings.max_batch_size, places),
        Modality.TEXT: min(settings.max_text_batch_size, places),
    }
