"""The client: images and texts in, vectors or typed errors out, whichever backend the settings name."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from worker.backends import Backend, create_backend
from worker.batches import BatchRunner
from worker.breaker import Breaker
from worker.clock import Clock
from worker.errors import ClipClientError, ConfigurationError
from worker.fingerprints import Dimensions
from worker.lane import Lane
from worker.operations import EmbedImage, EmbedText, Operation, Sign, signer
from worker.retry import RetryPolicy
from worker.router import Router
from worker.settings import BackendName, WorkerSettings
from worker.values import Embedding, Health, ImageItem, TextItem, new_request_id


class ClipClient:
    """Thread-safe. Made by `create_clip_client`; close it, or use it as a context manager."""

    def __init__(self, router: Router, lanes: list[Lane], batches: BatchRunner) -> None:
        self._router = router
        self._lanes = lanes
        self._batches = batches

    def embed_image(self, url: str, *, request_id: str | None = None, normalize: bool = True) -> Embedding:
        """Return the float32 (dim,) vector of the image at `url`. Raises a `ClipClientError`."""
        item = ImageItem(url, request_id or new_request_id(), normalize)
        item.check()
        return self._single(EmbedImage(item))

    def embed_images(
        self, items: Iterable[str | ImageItem], *, on_progress: Callable[[int, int], object] | None = None
    ) -> list[Embedding | ClipClientError]:
        """Return one result per item, in order: its embedding, or the error of that item in its place.

        Any number of items, as URLs or `ImageItem`s. They travel in batches, several at once. An item's retryable
        error (its download timed out) has been retried when it is returned, and one that the backend is at fault for
        has been sent to the fallback, as a single image's is. `on_progress(done, total)` is called in this thread
        after each batch. Raises only `BackendOff` and `ConfigurationError`.
        """
        images = [ImageItem(item) if isinstance(item, str) else item for item in items]
        return self._batches.run(images, on_progress)

    def embed_text(self, text: str, *, request_id: str | None = None, normalize: bool = True) -> Embedding:
        """Return the float32 (dim,) vector of `text`; a longer one is cut and says so. Raises a `ClipClientError`."""
        item = TextItem(text, request_id or new_request_id(), normalize)
        item.check()
        return self._single(EmbedText(item))

    def _single(self, operation: Operation) -> Embedding:
        [outcome] = self._router.call(operation)
        if isinstance(outcome, ClipClientError):
            raise outcome
        return outcome

    def health(self) -> Health:
        """Ask the chosen backend, once. One that loads or drains answers too. Raises a `ClipClientError`."""
        return self._lanes[0].health()

    @property
    def switches(self) -> int:
        """How often calls were moved between the chosen backend and the fallback, since the client was made."""
        return self._router.switches

    def close(self) -> None:
        """Close connections and, for the backend `local`, release the model."""
        for lane in self._lanes:
            lane.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def create_clip_client(settings: WorkerSettings, *, clock: Clock | None = None) -> ClipClient:
    """Return a client; nothing is connected yet. Raises `ConfigurationError` naming the variable that is missing."""
    names = settings.backends()
    if len(set(names)) < len(names):
        raise ConfigurationError("CLIP_FALLBACK_BACKEND is the same as CLIP_INFERENCE_BACKEND")
    clock = clock or Clock()
    return assemble_client([create_backend(name, settings, clock) for name in names], settings, clock)


def assemble_client(backends: list[Backend], settings: WorkerSettings, clock: Clock) -> ClipClient:
    """Return a client over one backend, or over a primary and a fallback."""
    policy = RetryPolicy(settings.clip_retry_attempts, settings.clip_total_timeout_s, clock)
    sign, dimensions = signer(settings, clock), Dimensions()
    lanes = [_lane(backend, settings, policy, sign, dimensions) for backend in backends]
    fallback = lanes[1] if len(lanes) > 1 else None
    router = Router(
        lanes[0],
        fallback,
        policy=policy,
        reserve_s=settings.reserve_s(BackendName(fallback.name)) if fallback else 0.0,
        expected_fingerprint=settings.clip_expected_fingerprint,
        allow_mismatch=settings.clip_allow_fingerprint_mismatch,
    )
    batches = BatchRunner(router.call, settings.clip_batch_size, settings.clip_concurrent_batches)
    return ClipClient(router, lanes, batches)


def _lane(backend: Backend, settings: WorkerSettings, policy: RetryPolicy, sign: Sign, dimensions: Dimensions) -> Lane:
    breaker = Breaker(
        max_failures=settings.clip_breaker_failures,
        cool_down_s=settings.clip_breaker_cool_down_s,
        monotonic=policy.clock.monotonic,
    )
    return Lane(backend, breaker, policy, sign, dimensions)
