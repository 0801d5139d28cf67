"""The real service, with everything real but the model: admission, image processes, scheduler, watchdog."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.access import Access
from core.api import Api
from core.batching.batcher import Batcher
from core.batching.device import Device
from core.batching.items import Modality
from core.batching.scheduler import Limits, Scheduler
from core.byte_budget import ByteBudget
from core.clip.choice import choose_max_batch
from core.embedder import Arrivals, Embedder, ImageMemory
from core.errors import StartError
from core.images.content import SentLimits
from core.images.job import PixelStack
from core.images.pool import ImageProcesses
from core.images.settings import child_settings
from core.metrics import Reading
from core.operations import Model, max_batch_sizes
from core.process import cpu
from core.service import Service
from core.settings import ServiceSettings
from core.wire.responses import ModelIdentity
from shared_auth import Authenticator
from tools.chaos.engine import DIM, MAX_TOKENS, SIZE_PX, ScriptedEngine, pad, tokenize

IDENTITY = ModelIdentity("scripted", "none", "cpu", "float32", "scripted", DIM, "0" * 16, "scripted")

_PIXEL_BYTES = 3 * SIZE_PX**2
_DECODES_PER_PROCESS = 2


def scripted_service(settings: ServiceSettings, environ: Mapping[str, str]) -> Service:
    """A service that is still loading; CHAOS_ITEM_S, CHAOS_MAX_ITEMS and CHAOS_RELEASE describe its engine.

    CHAOS_IN_TURNS=1 has decoder and device take turns, as they do where they share a CPU. Loading waits for the file
    CHAOS_MODEL, if that is set, and fails when it holds anything.
    """
    release = environ.get("CHAOS_RELEASE")
    engine = ScriptedEngine(
        item_s=float(environ.get("CHAOS_ITEM_S", "0.001")),
        max_items=int(environ.get("CHAOS_MAX_ITEMS", "1000")),
        release=Path(release) if release else None,
    )
    in_turns = environ.get("CHAOS_IN_TURNS") == "1"

    def load() -> ScriptedRuntime:
        if model := environ.get("CHAOS_MODEL"):
            _read(Path(model))
        return ScriptedRuntime(settings, engine, in_turns=in_turns)

    return Service(settings, load)


def _read(model: Path) -> None:
    while not model.exists():
        time.sleep(0.02)
    if model.read_bytes():
        raise StartError("CHAOS_MODEL is broken")


class ScriptedRuntime:
    """What `core.runtime.Runtime` is, over a scripted engine."""

    identity = IDENTITY
    torch_version = "none"
    cuda_version: str | None = None

    def __init__(self, settings: ServiceSettings, engine: ScriptedEngine, *, in_turns: bool) -> None:
        processes = cpu.available_cores() if settings.image_processes == "auto" else settings.image_processes
        self._scheduler = Scheduler(
            _limits(settings),
            shared=in_turns,
            decoders=processes * _DECODES_PER_PROCESS,
            grant=lambda item: self._images.decode(item.payload),
        )
        self._images = ImageProcesses(
            child_settings(settings, SIZE_PX, processes=processes, in_turns=in_turns),
            Arrivals(self._scheduler, None),
            processes=processes,
            budget_s=settings.max_decode_cpu_s,
        )
        self._images.start()
        self._batcher = Batcher(self._scheduler, [_device(settings, engine)])
        self.api = _api(settings, self._scheduler, self._images)
        self._images.wait_until_ready()

    @property
    def healthy(self) -> bool:
        return self._batcher.healthy and self._images.healthy

    def readings(self) -> Iterator[Reading]:
        for part in (self._batcher, self._images, self.api):
            yield from part.readings()

    def pass_serials(self) -> tuple[int | None, ...]:
        return self._batcher.pass_serials()

    def check(self) -> None:
        """Nothing is warmed: a scripted pass may be the one that hangs."""

    def fail(self) -> None:
        self._batcher.fail()

    def close(self) -> None:
        self._batcher.close()
        self._images.close()


def _limits(settings: ServiceSettings) -> Limits:
    return Limits(
        max_items=settings.max_queued_items,
        max_batch=_max_batch(settings),
        max_tokens=_max_batch(settings) * MAX_TOKENS,
        max_turn_s=settings.max_image_pass_ms / 1000,
    )


def _device(settings: ServiceSettings, engine: ScriptedEngine) -> Device:
    return Device(
        engine,
        {Modality.IMAGE: PixelStack(SIZE_PX), Modality.TEXT: pad},
        dim=DIM,
        max_batch=_max_batch(settings),
        out_of_memory=engine.out_of_memory,
    )


def _max_batch(settings: ServiceSettings) -> int:
    """The scripted engine is no GPU."""
    return choose_max_batch(settings.max_device_batch, [])


def _api(settings: ServiceSettings, scheduler: Scheduler, images: ImageProcesses) -> Api:
    embedder = Embedder(
        images=images,
        tokenize=tokenize,
        scheduler=scheduler,
        memory=ImageMemory(ByteBudget(settings.max_image_bytes_in_flight), _PIXEL_BYTES),
        concurrency=settings.download_concurrency,
        # What is asked again and again here is to be worked for each time.
        cache=None,
    )
    model = Model(embedder, IDENTITY, max_batch_sizes(settings))
    access = Access(Authenticator(settings.hmac_secrets()), {})
    sent_limits = SentLimits(settings.max_image_size_bytes, ByteBudget(settings.max_image_bytes_in_flight))
    return Api(model, access, sent_limits=sent_limits, request_timeout_s=settings.request_timeout_s)
