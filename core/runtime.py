"""Loads the model and joins the parts around it: engines, batcher, downloads, pixels, operations."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
import torch

from core.api import Api, Model
from core.batching.batcher import Batcher, Modality
from core.batching.turns import Turns
from core.byte_budget import ByteBudget
from core.clip.artifact import ModelDirectory, open_model
from core.clip.choice import load_engines
from core.clip.engine import Engine
from core.clip.fingerprint import fingerprint
from core.clip.tokenizer import ClipTokenizer
from core.clip.weights import read_weights
from core.deadline import Deadline
from core.embedder import Embedder, ImageMemory, Pools
from core.errors import ServiceError, StartError
from core.images.fetch import AllowList, Fetcher, FetchLimits
from core.images.pixels import PIXEL_RULES_VERSION, PixelDecoder
from core.images.strict_decoding import prepare_decoders
from core.process import cpu
from core.service import Runtime
from core.settings import ServiceSettings
from core.wire.responses import ModelIdentity
from shared_auth import Authenticator

logger = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 300.0


def load_runtime(settings: ServiceSettings, authenticator: Authenticator | None) -> Runtime:
    """Load, warm and return everything. Raises `StartError` with one line that names the cause."""
    started_s = time.monotonic()
    prepare_decoders()
    directory = open_model(settings.clip_model, revision=settings.clip_model_revision)
    weights = read_weights(directory)
    model_fingerprint = fingerprint(
        weights, directory.tokenizer_path, pixel_rules=PIXEL_RULES_VERSION, dim=directory.dim
    )
    _require_as_baked(directory, model_fingerprint)
    engines = load_engines(settings, directory, weights, model_fingerprint)
    tokenizer = ClipTokenizer(directory.tokenizer_path, directory.context_length)
    turns = Turns(shared=engines[0].device == "cpu")
    batcher = Batcher(
        engines,
        {Modality.IMAGE: np.stack, Modality.TEXT: tokenizer.pad},
        dim=directory.dim,
        max_batch=settings.max_device_batch,
        max_items=settings.max_queued_items,
        turns=turns,
        prepare_thread=lambda: torch.set_num_threads(cpu.available_cores()),
        out_of_memory=(MemoryError, torch.OutOfMemoryError),
    )
    decoder = PixelDecoder(directory.size_px, settings.max_image_pixels)
    check = partial(_check, decoder, tokenizer, batcher)
    # Also the warm-up: the first request must not be the slow one.
    check()
    identity = _identity(directory, engines[0], model_fingerprint)
    runtime = _join(settings, authenticator, _Parts(decoder, tokenizer, batcher, turns, identity, check))
    logger.info(
        "model ready",
        extra={**identity.for_response(), "dtype": identity.dtype, "load_s": round(time.monotonic() - started_s, 2)},
    )
    return runtime


def _require_as_baked(directory: ModelDirectory, model_fingerprint: str) -> None:
    if directory.baked_fingerprint not in (None, model_fingerprint):
        raise StartError(
            f"CLIP_MODEL: the fingerprint of {directory.path} is {model_fingerprint} and its manifest says"
            f" {directory.baked_fingerprint}: the files or the pixel rules have changed, bake it again"
        )


def _check(decoder: PixelDecoder, tokenizer: ClipTokenizer, batcher: Batcher) -> None:
    deadline = Deadline.after(_CHECK_TIMEOUT_S)
    grey = np.full((2 * decoder.size_px, 3 * decoder.size_px, 3), 128, dtype=np.uint8)
    pixels = decoder.decode(simplejpeg.encode_jpeg(grey))
    token_ids, _ = tokenizer.encode("a grey rectangle")
    futures = [
        *batcher.submit(Modality.IMAGE, [pixels], deadline),
        *batcher.submit(Modality.TEXT, [token_ids], deadline),
    ]
    try:
        for future in futures:
            future.result(timeout=deadline.remaining_s())
    except (ServiceError, TimeoutError) as error:
        raise StartError("the model cannot embed one image and one text: see the log above") from error


def _identity(directory: ModelDirectory, engine: Engine, model_fingerprint: str) -> ModelIdentity:
    return ModelIdentity(
        model_name=directory.model_name,
        pretrained=directory.pretrained,
        device=engine.device,
        dtype=engine.dtype,
        engine=engine.name,
        dim=directory.dim,
        fingerprint=model_fingerprint,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    decoder: PixelDecoder
    tokenizer: ClipTokenizer
    batcher: Batcher
    turns: Turns
    identity: ModelIdentity
    check: Callable[[], None]


def _join(settings: ServiceSettings, authenticator: Authenticator | None, parts: _Parts) -> Runtime:
    limits = FetchLimits(max_bytes=settings.max_image_size_bytes, timeout_s=settings.image_download_timeout_s)
    fetcher = Fetcher(limits, AllowList.parse(settings.download_allow_hosts))
    pools = _pools(settings)
    embedder = Embedder(
        fetch=fetcher.fetch,
        decode=parts.decoder.decode,
        tokenize=parts.tokenizer.encode,
        batcher=parts.batcher,
        pools=pools,
        memory=ImageMemory(ByteBudget(settings.max_image_bytes_in_flight), pixel_bytes=3 * parts.decoder.size_px**2),
        concurrency=settings.download_concurrency,
        turns=parts.turns,
    )
    api = Api(
        Model(embedder, parts.identity),
        authenticator,
        max_batch_size=settings.max_batch_size,
        request_timeout_s=settings.request_timeout_s,
    )
    return Runtime(
        api=api,
        identity=parts.identity,
        torch_version=torch.__version__,
        cuda_version=torch.version.cuda,
        check=parts.check,
        healthy=lambda: parts.batcher.healthy,
        queued_items=lambda: parts.batcher.queued_items,
        done=lambda: parts.batcher.done,
        forward_s=parts.batcher.forward_s,
        fail=parts.batcher.fail,
        close=lambda: _close([pools.close, parts.batcher.close, fetcher.close]),
    )


def _pools(settings: ServiceSettings) -> Pools:
    cores = cpu.available_cores()
    return Pools(
        downloads=ThreadPoolExecutor(settings.max_concurrent_requests, thread_name_prefix="download"),
        # One thread of torch each: resizes run side by side, and the engine has its own count.
        decodes=ThreadPoolExecutor(cores, "decode", initializer=torch.set_num_threads, initargs=(1,)),
    )


def _close(steps: Sequence[Callable[[], None]]) -> None:
    for step in steps:
        step()
