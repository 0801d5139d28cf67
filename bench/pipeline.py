"""JPEG bytes to vectors in this process: the service's decoder threads and batcher over its engines, no network."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from core.batching.batcher import Batcher
from core.batching.device import Device
from core.batching.items import Group, Item, Modality
from core.batching.scheduler import Limits, Scheduler
from core.clip.loading import LoadedModel
from core.deadline import Deadline
from core.images.decoding.pixels import PixelDecoder
from core.images.job import ImageJob, PixelStack
from core.process import cpu
from core.settings import ServiceSettings

# Enough images under way per decoder thread that the device always finds a batch.
_LANES_PER_CORE = 16
_DEADLINE_S = 120.0


def images_per_s(
    settings: ServiceSettings, model: LoadedModel, decoder: PixelDecoder, jpegs: Sequence[bytes], seconds: float
) -> float:
    """The rate over `seconds`, with as many decoder threads as there are cores."""
    cores = cpu.available_cores()
    limits = Limits(max_items=settings.max_queued_items, max_batch=model.max_batch, max_tokens=1, max_turn_s=1.0)
    scheduler = Scheduler(limits, shared=False, decoders=cores, grant=lambda _item: None)
    stack = {Modality.IMAGE: PixelStack(decoder.size_px)}
    dim, max_batch = model.directory.dim, model.max_batch
    devices = [
        Device(engine, stack, dim=dim, max_batch=max_batch, prepare_thread=engine.prepare_thread)
        for engine in model.engines
    ]
    batcher = Batcher(scheduler, devices)
    decodes = ThreadPoolExecutor(cores)
    numbers = count()
    until_s = time.monotonic() + seconds

    def lane() -> int:
        done = 0
        while time.monotonic() < until_s:
            pixels = decodes.submit(decoder.decode, jpegs[next(numbers) % len(jpegs)]).result()
            group = Group(Deadline.after(_DEADLINE_S))
            item = Item(Modality.IMAGE, group, ImageJob("", group.deadline, pixels=pixels))
            with scheduler.entered([item]):
                scheduler.add_decoded([item])
                group.wait()
            done += 1
        return done

    with decodes, ThreadPoolExecutor(cores * _LANES_PER_CORE) as lanes:
        started_s = time.monotonic()
        running = [lanes.submit(lane) for _ in range(cores * _LANES_PER_CORE)]
        done = sum(future.result() for future in running)
        elapsed_s = time.monotonic() - started_s
    batcher.close()
    return done / elapsed_s
