"""The real service, with everything real but the model: admission, downloads, batcher, watchdog."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from core.api import Api, Model
from core.batching.batcher import Batcher
from core.batching.items import Modality
from core.byte_budget import ByteBudget
from core.embedder import Embedder, ImageMemory, Pools
from core.images.fetch.allowlist import AllowList
from core.images.fetch.fetcher import Fetcher, FetchLimits
from core.service import Runtime, Service
from core.settings import ServiceSettings
from core.wire.responses import ModelIdentity
from shared_auth import Authenticator
from tests.chaos.engine import DIM, IMAGE_BYTES, ScriptedEngine, decode, pad, tokenize

IDENTITY = ModelIdentity("scripted", "none", "cpu", "float32", "scripted", DIM, "0" * 16)


def scripted_service(settings: ServiceSettings, environ: Mapping[str, str]) -> Service:
    """A service that is still loading; CHAOS_ITEM_S, CHAOS_MAX_ITEMS and CHAOS_RELEASE describe its engine."""
    release = environ.get("CHAOS_RELEASE")
    engine = ScriptedEngine(
        item_s=float(environ.get("CHAOS_ITEM_S", "0.001")),
        max_items=int(environ.get("CHAOS_MAX_ITEMS", "1000")),
        release=Path(release) if release else None,
    )
    return Service(settings, lambda: _runtime(settings, engine))


def _runtime(settings: ServiceSettings, engine: ScriptedEngine) -> Runtime:
    batcher = Batcher(
        [engine],
        {Modality.IMAGE: np.stack, Modality.TEXT: pad},
        dim=DIM,
        max_batch=settings.max_device_batch,
        max_items=settings.max_queued_items,
    )
    limits = FetchLimits(max_bytes=settings.max_image_size_bytes, timeout_s=settings.image_download_timeout_s)
    fetcher = Fetcher(limits, AllowList.parse(settings.download_allow_hosts))
    pools = Pools(ThreadPoolExecutor(settings.max_concurrent_requests), ThreadPoolExecutor(2))
    embedder = Embedder(
        fetch=fetcher.fetch,
        decode=decode,
        tokenize=tokenize,
        batcher=batcher,
        pools=pools,
        memory=ImageMemory(ByteBudget(settings.max_image_bytes_in_flight), pixel_bytes=IMAGE_BYTES),
        concurrency=settings.download_concurrency,
    )
    api = Api(
        Model(embedder, IDENTITY),
        Authenticator(settings.hmac_secrets()),
        max_batch_size=settings.max_batch_size,
        request_timeout_s=settings.request_timeout_s,
    )

    def close() -> None:
        pools.close()
        batcher.close()
        fetcher.close()

    return Runtime(
        api=api,
        identity=IDENTITY,
        torch_version="none",
        cuda_version=None,
        check=lambda: None,
        healthy=lambda: batcher.healthy,
        pass_serials=batcher.pass_serials,
        fail=batcher.fail,
        close=close,
    )
