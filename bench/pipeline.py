"""JPEG bytes to vectors in this process: the service's decoder threads and batcher over its engines, no network."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import torch

from core.batching.batcher import Batcher, Modality
from core.clip.engine import Engine
from core.deadline import Deadline
from core.images.pixels import PixelDecoder
from core.process import cpu
from core.settings import ServiceSettings

# Enough images under way per decoder thread that the device always finds a batch.
_LANES_PER_CORE = 16
_DEADLINE_S = 120.0


def images_per_s(
    settings: ServiceSettings, engines: Sequence[Engine], decoder: PixelDecoder, jpegs: Sequence[bytes], seconds: float
) -> float:
    """The rate over `seconds`, with as many decoder threads as there are cores."""
    cores = cpu.available_cores()
    batcher = Batcher(
        engines,
        {Modality.IMAGE: np.stack},
        dim=len(engines[0].encode_images(decoder.decode(jpegs[0])[None])[0]),
        max_batch=settings.max_device_batch,
        max_items=settings.max_queued_items,
    )
    decodes = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    numbers = count()
    until_s = time.monotonic() + seconds

    def lane() -> int:
        done = 0
        while time.monotonic() < until_s:
            pixels = decodes.submit(decoder.decode, jpegs[next(numbers) % len(jpegs)]).result()
            [row] = batcher.submit(Modality.IMAGE, [pixels], Deadline.after(_DEADLINE_S))
            row.result()
            done += 1
        return done

    with decodes, ThreadPoolExecutor(cores * _LANES_PER_CORE) as lanes:
        started_s = time.monotonic()
        running = [lanes.submit(lane) for _ in range(cores * _LANES_PER_CORE)]
        done = sum(future.result() for future in running)
        elapsed_s = time.monotonic() - started_s
    batcher.close()
    return done / elapsed_s
