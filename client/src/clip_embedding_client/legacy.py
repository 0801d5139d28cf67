"""The client as the code of the system before this one calls it: plain dicts out, one client per process.

For callers that move over without being rewritten; new code uses `ClipClient`. The dicts are the wire
contract's, with vectors as lists of numbers, and `model`, which the old system answered, beside `model_name`. Errors
of single calls are raised, as the typed errors of `clip_embedding_client.errors`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence

from clip_embedding_client.client import ClipClient
from clip_embedding_client.errors import ClipClientError, ConfigurationError, ValidationFailed
from clip_embedding_client.settings import ClientSettings
from clip_embedding_client.values import Body, Embedding, ImageItem, Outcome, new_request_id

logger = logging.getLogger(__name__)

LegacyItem = Mapping[str, object] | Sequence[object]
"""`{"image_url": …, "request_id": …, "normalize": …}`, of which only the first is required, or `(url, request_id)`."""


class LegacyClipClient:
    """Thread-safe, as the client under it."""

    def __init__(self, client: ClipClient) -> None:
        self._client = client

    def embed_image_url(self, url: str, request_id: str | None = None, *, normalize: bool = True) -> Body:
        """Return `{"request_id", "embedding": [float, …], "dim", "normalized", "truncated", "timings", "fingerprint",
        "model_name", "model", "backend"}`. Raises a `ClipClientError`."""
        return _success(self._client.embed_image(url, request_id=request_id, normalize=normalize))

    def embed_text(self, text: str, request_id: str | None = None, *, normalize: bool = True) -> Body:
        """Return the same for a text. Raises a `ClipClientError`."""
        return _success(self._client.embed_text(text, request_id=request_id, normalize=normalize))

    def embed_image_batch(self, items: Sequence[LegacyItem]) -> list[Body]:
        """Return one dict per item, in order: what `embed_image_url` returns, or `{"request_id", "error": {"code",
        "message", "request_id", "retryable"}}`.

        Raises `ValidationFailed` for items of another form, `BackendOff` and `ConfigurationError`.
        """
        images = [_image(position, item) for position, item in enumerate(items)]
        outcomes = self._client.embed_images(images)
        return [_result(image, outcome) for image, outcome in zip(images, outcomes, strict=True)]

    def health_check(self) -> bool:
        """Whether the backend answers and takes requests; why not is logged. Raises `ConfigurationError`."""
        try:
            return self._client.health().ready
        except ConfigurationError:
            raise
        except ClipClientError as error:
            logger.warning("the backend's health could not be had: %s", error, extra={"code": error.code})
            return False

    def close(self) -> None:
        """Close the client under it. The next `get_clip_inference_client` makes another."""
        with _lock:
            _clients[:] = [entry for entry in _clients if entry[2] is not self]
        self._client.close()


_clients: list[tuple[int, ClientSettings | None, LegacyClipClient]] = []
_lock = threading.Lock()


def get_clip_inference_client(settings: ClientSettings | None = None) -> LegacyClipClient:
    """Return this process's client for `settings`, which is made by the first call; None stands for the environment.

    The settings objects of the old system are not taken: their names meant other things. Raises `ConfigurationError`.
    """
    if settings is not None and not isinstance(settings, ClientSettings):
        raise ConfigurationError(
            "settings must be clip_embedding_client.ClientSettings, or None to read the environment"
        )
    # A forked process makes its own: connections must not be shared with its parent.
    process = os.getpid()
    with _lock:
        for owner, given, client in _clients:
            if (owner, given) == (process, settings):
                return client
        client = LegacyClipClient(ClipClient(settings))
        _clients.append((process, settings, client))
        return client


def _image(position: int, item: LegacyItem) -> ImageItem:
    match item:
        case {"image_url": str(url), **others}:
            request_id, normalize = others.get("request_id"), others.get("normalize", True)
        case (str(url), request_id):
            normalize = True
        case _:
            raise ValidationFailed(f"item {position} is neither a dict with image_url nor a pair (url, request_id)")
    if not isinstance(request_id, str | None) or not isinstance(normalize, bool):
        raise ValidationFailed(f"item {position}: request_id must be a string or None, and normalize a bool")
    return ImageItem(url, request_id or new_request_id(), normalize)


def _result(image: ImageItem, outcome: Outcome) -> Body:
    if isinstance(outcome, Embedding):
        return _success(outcome)
    error = {
        "code": outcome.code,
        "message": outcome.message,
        "request_id": image.request_id,
        "retryable": outcome.retryable,
    }
    return {"request_id": image.request_id, "error": error}


def _success(embedding: Embedding) -> Body:
    return {
        "request_id": embedding.request_id,
        "embedding": embedding.vector.tolist(),
        "dim": embedding.vector.shape[0],
        "normalized": embedding.normalized,
        "truncated": embedding.truncated,
        "timings": dict(embedding.timings),
        "fingerprint": embedding.fingerprint,
        "model_name": embedding.model_name,
        "model": embedding.model_name,
        "backend": embedding.backend,
    }
