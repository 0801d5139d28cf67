"""Loads the model and joins the parts around it: engines, scheduler, image processes, operations. Owns what it made."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from core import metrics
from core.access import Access
from core.api import Api
from core.batching.batcher import Batcher
from core.batching.device import Device
from core.batching.items import Group, Item, Modality, outcomes
from core.batching.scheduler import Limits, Scheduler
from core.byte_budget import ByteBudget
from core.cache import Cache
from core.clip import cuda
from core.clip.artifact import ModelDirectory
from core.clip.engine import Engine
from core.clip.loading import LoadedModel, load_model
from core.deadline import Deadline
from core.embedder import Arrivals, Embedder, ImageMemory, Tokens
from core.errors import ServiceError, StartError
from core.images.content import SentLimits
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.images.job import ImageJob, PixelStack
from core.images.pool import ImageProcesses
from core.images.settings import child_settings
from core.metrics import Measured, Reading
from core.operations import Model, max_batch_sizes
from core.process import cpu
from core.settings import ServiceSettings
from core.wire.responses import ModelIdentity
from shared_auth import Authenticator

if TYPE_CHECKING:
    from core.cache_tier import SharedRows
    from core.rate_limits import RateLimits

logger = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 300.0

# Of each image process: one decode that runs and one that is next, so that it need not wait for its turn in between.
_DECODES_PER_PROCESS = 2


def load_runtime(settings: ServiceSettings, authenticator: Authenticator | None) -> "Runtime":
    """Load, warm and return everything. Raises `StartError` with one line that names the cause."""
    if settings.model_name not in (None, settings.clip_model):
        names = {"CLIP_MODEL": settings.clip_model, "MODEL_NAME": settings.model_name}
        logger.warning("CLIP_MODEL is served, and MODEL_NAME names another one", extra=names)
    started_s = time.monotonic()
    runtime = Runtime(settings, authenticator, load_model(settings, pixel_rules=PIXEL_RULES_VERSION))
    logger.info(
        "model ready",
        extra={
            **runtime.identity.for_response(),
            "dtype": runtime.identity.dtype,
            "load_s": round(time.monotonic() - started_s, 2),
        },
    )
    return runtime


class Runtime:
    """A warm model and all that serves it. `close` ends it in the reverse order of its making."""

    def __init__(self, settings: ServiceSettings, authenticator: Authenticator | None, model: LoadedModel) -> None:
        directory, engines = model.directory, model.engines
        self.identity = _identity(directory, engines[0], model.fingerprint)
        self.torch_version = version("torch")
        self.cuda_version = _cuda_version()
        with ExitStack() as made:
            self._size_px = directory.size_px
            self._tokenizer = model.tokenizer
            shared = engines[0].device == "cpu"
            processes = cpu.available_cores() if settings.image_processes == "auto" else settings.image_processes
            self._scheduler = Scheduler(
                _limits(settings, model),
                shared=shared,
                decoders=processes * _DECODES_PER_PROCESS,
                grant=lambda item: self._images.decode(item.payload),
            )
            self._cache = _cache(settings, self.identity, made)
            if self._cache is not None:
                close_in_the_end(made, self._cache.close)
            self._images = ImageProcesses(
                child_settings(settings, directory.size_px, processes=processes, in_turns=shared),
                Arrivals(self._scheduler, self._cache),
                processes=processes,
                budget_s=settings.max_decode_cpu_s,
            )
            close_in_the_end(made, self._images.close)
            self._images.start()
            self._batcher = Batcher(self._scheduler, [self._device(model, engine) for engine in engines])
            close_in_the_end(made, self._batcher.close)
            self._device_names = [engine.device for engine in engines]
            self._embedder = self._made_embedder(settings)
            self.api = self._api(settings, authenticator)
            # Also the warm-up: the first request must not be the slow one.
            self._check_or_fail()
            self._images.wait_until_ready()
            self._made = made.pop_all()

    def _check_or_fail(self) -> None:
        try:
            self.check()
        except StartError:
            # Closing would wait for a pass that may never end.
            self._batcher.fail()
            raise

    @property
    def healthy(self) -> bool:
        """Whether images and texts can still be embedded."""
        return self._batcher.healthy and self._images.healthy

    def readings(self) -> Iterator[Reading]:
        """Of every part, for metrics."""
        yield from self._queue_readings()
        parts: list[Measured] = [self._batcher, self._images, self._embedder, self.api]
        if self._cache is not None:
            parts.append(self._cache)
        for part in parts:
            yield from part.readings()
        for name in self._device_names:
            yield from cuda.memory_readings(name)

    def _queue_readings(self) -> Iterator[Reading]:
        """An image that waits for a decoder needs that first, and the device then."""
        scheduler, undecoded = self._scheduler, self._images.undecoded
        seconds = scheduler.waiting_s + undecoded.seconds + undecoded.images * scheduler.image_s
        yield Reading(metrics.ITEMS_IN_FLIGHT, (), scheduler.items)
        yield Reading(metrics.ITEMS_LIMIT, (), scheduler.limit)
        yield Reading(metrics.QUEUED_ITEMS, (), scheduler.waiting_items + undecoded.images)
        yield Reading(metrics.QUEUED_SECONDS, (), seconds)

    def pass_serials(self) -> tuple[int | None, ...]:
        """See `Batcher.pass_serials`."""
        return self._batcher.pass_serials()

    def check(self) -> None:
        """Run one image and one text through the model. Raises `StartError` when that fails."""
        deadline = Deadline.after(_CHECK_TIMEOUT_S)
        grey = np.full((3, self._size_px, self._size_px), 128, dtype=np.uint8)
        image = Item(Modality.IMAGE, Group(deadline), ImageJob("", deadline, pixels=grey))
        tokens = self._tokenize("a grey square")
        text = Item(Modality.TEXT, Group(deadline), tokens.ids, tokens.width, len(tokens.ids))
        # Together, as two streams of a device warm up at once; one after the other where there is one place.
        passes = [[image, text]] if self._scheduler.limit > 1 else [[image], [text]]
        if not all(self._encodes(items) for items in passes):
            raise StartError("the model cannot embed one image and one text: see the log above")

    def _encodes(self, items: Sequence[Item]) -> bool:
        try:
            with self._scheduler.entered(items):
                self._scheduler.add_decoded(item for item in items if item.modality is Modality.IMAGE)
                self._scheduler.add_texts(item for item in items if item.modality is Modality.TEXT)
                rows = [row for item in items for row in outcomes(item.group, [item])]
        except ServiceError:
            return False
        return not any(isinstance(row, ServiceError) for row in rows)

    def fail(self) -> None:
        """Give the model up for good: whatever waits for it is answered with `NotReady`."""
        self._batcher.fail()

    def close(self) -> None:
        """Stop every thread and process; each step is tried whatever became of the one before."""
        self._made.close()

    def _device(self, model: LoadedModel, engine: Engine) -> Device:
        return Device(
            engine,
            {Modality.IMAGE: PixelStack(self._size_px), Modality.TEXT: self._tokenizer.pad},
            dim=model.directory.dim,
            max_batch=model.max_batch,
            prepare_thread=engine.prepare_thread,
            out_of_memory=engine.out_of_memory,
        )

    def _tokenize(self, text: str) -> Tokens:
        ids, truncated = self._tokenizer.encode(text)
        return Tokens(ids, self._tokenizer.width(len(ids)), truncated)

    def _made_embedder(self, settings: ServiceSettings) -> Embedder:
        pixel_bytes = 3 * self._size_px**2
        return Embedder(
            images=self._images,
            tokenize=self._tokenize,
            scheduler=self._scheduler,
            memory=ImageMemory(ByteBudget(settings.max_image_bytes_in_flight), pixel_bytes),
            concurrency=settings.download_concurrency,
            cache=self._cache,
        )

    def _api(self, settings: ServiceSettings, authenticator: Authenticator | None) -> Api:
        model = Model(self._embedder, self.identity, max_batch_sizes(settings))
        access = Access(authenticator, settings.bearer_keys())
        return Api(
            model,
            access,
            sent_limits=SentLimits(settings.max_image_size_bytes, ByteBudget(settings.max_image_bytes_in_flight)),
            request_timeout_s=settings.request_timeout_s,
            rate_limits=_rate_limits(settings),
        )


def close_in_the_end(made: ExitStack, close: Callable[[], None]) -> None:
    """A step that fails is logged and does not keep the next ones from being tried."""

    def closed() -> None:
        try:
            close()
        except Exception:
            logger.exception("a part could not be closed")

    made.callback(closed)


def _cache(settings: ServiceSettings, identity: ModelIdentity, made: ExitStack) -> Cache | None:
    if settings.cache_bytes == 0:
        return None
    shared = _shared_rows(settings, identity.dim)
    if shared is not None:
        close_in_the_end(made, shared.close)
    return Cache(
        settings.cache_bytes, model=f"{identity.fingerprint}|{identity.engine}|{identity.dtype}", shared=shared
    )


def _shared_rows(settings: ServiceSettings, dim: int) -> "SharedRows | None":
    if not settings.cache_url:
        return None
    from core.cache_tier import open_shared_rows  # 80 ms, which a start without it is spared

    return open_shared_rows(settings.cache_url, dim=dim)


def _limits(settings: ServiceSettings, model: LoadedModel) -> Limits:
    return Limits(
        max_items=settings.max_queued_items,
        max_batch=model.max_batch,
        max_tokens=model.max_batch * model.directory.context_length,
        max_turn_s=settings.max_image_pass_ms / 1000,
    )


def _rate_limits(settings: ServiceSettings) -> "RateLimits | None":
    if not settings.has_rate_limits:
        return None
    from core.rate_limits import build_rate_limits  # 80 ms, which a start without limits is spared

    return build_rate_limits(settings)


def _identity(directory: ModelDirectory, engine: Engine, model_fingerprint: str) -> ModelIdentity:
    return ModelIdentity(
        model_name=directory.model_name,
        pretrained=directory.pretrained,
        device=engine.device,
        dtype=engine.dtype,
        engine=engine.name,
        dim=directory.dim,
        fingerprint=model_fingerprint,
        source=directory.hub_id or directory.model_name,
    )


def _cuda_version() -> str | None:
    """Of torch, where it is loaded: a start on OpenVINO does without."""
    torch = sys.modules.get("torch")
    return torch.version.cuda if torch is not None else None
