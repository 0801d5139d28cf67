"""Mutated real images through the decoder, in processes of their own so that a crash is seen and not shared."""

import multiprocessing
import random
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import psutil
from PIL import Image

from core.errors import ImageError
from core.images.decoding.pixels import PixelDecoder
from core.images.decoding.strict_decoding import prepare_decoders
from tools.fuzz.mutate import mutated
from tools.fuzz.report import FuzzReport
from tools.testbed import handmade
from tools.testbed.hostile_images import png_chunk
from tools.testbed.pictures import encoded, natural

SIZE_PX = 224
# Of the service: far less than it allows would hide what large images do, far more would only take time.
_MAX_PIXELS = 4_000_000
_CHUNK = 250
_PROCESSES = 2
_WIDTH, _HEIGHT = 160, 120


@dataclass(slots=True)
class _ChunkResult:
    outcomes: list[str]
    faults: list[str]
    pid: int
    rss_mb: float


def seeds() -> list[bytes]:
    """Small real images in every format and mode that the service takes."""
    rgb = natural(_WIDTH, _HEIGHT)
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    orientation = Image.Exif()
    orientation[0x0112] = 6
    sixteen = Image.fromarray(np.asarray(rgb.convert("L"), dtype=np.uint16) << 8)
    frames = [natural(_WIDTH, _HEIGHT, seed) for seed in (1, 2)]
    return [
        encoded(rgb, "JPEG"),
        encoded(rgb, "JPEG", progressive=True),
        encoded(rgb, "JPEG", exif=orientation.tobytes()),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb.convert("L"), "JPEG"),
        encoded(rgb, "MPO", save_all=True, append_images=frames),
        *(
            encoded(image, "PNG")
            for image in (rgb, rgba, rgb.convert("L"), rgb.convert("P"), rgb.convert("1"), sixteen)
        ),
        encoded(rgba.convert("LA"), "PNG"),
        encoded(rgb.convert("P"), "PNG", transparency=3),
        encoded(rgb, "PNG", save_all=True, append_images=frames),
        encoded(rgb, "GIF"),
        encoded(rgb, "GIF", save_all=True, append_images=frames),
        encoded(rgb, "WEBP"),
        encoded(rgba, "WEBP", lossless=True),
        encoded(rgb, "WEBP", save_all=True, append_images=frames),
        *(encoded(image, "BMP") for image in (rgb, rgba, rgb.convert("P"), rgb.convert("1"))),
        *_handmade(np.asarray(rgb.convert("L"))),
        encoded(rgb, "AVIF"),
        encoded(rgba, "AVIF"),
    ]


def _handmade(grey: handmade.Samples) -> list[bytes]:
    palette = bytes(range(256)) * 4
    rle8, rle4 = handmade.BI_RLE8, handmade.BI_RLE4
    deep = np.repeat(grey.astype(np.uint16)[..., None], 3, axis=2) * 257
    key = png_chunk(b"tRNS", bytes(6))
    return [
        handmade.bmp(handmade.rle8(grey), _WIDTH, _HEIGHT, 8, compression=rle8, palette=palette),
        handmade.bmp(handmade.rle4(grey >> 4), _WIDTH, _HEIGHT, 4, compression=rle4, palette=palette[:64]),
        handmade.png(deep, handmade.RGB, 16, before_data=key, interlaced=True),
        handmade.gif(grey, palette[:768], canvas=(_WIDTH + 20, _HEIGHT + 10), at=(3, 5)),
    ]


def fuzz_images(count: int, seed: int) -> FuzzReport:
    """Decode `count` mutated images."""
    report = FuzzReport()
    first_mb: dict[int, float] = {}
    spawn = multiprocessing.get_context("spawn")
    chunks = [(seed, start, min(_CHUNK, count - start)) for start in range(0, count, _CHUNK)]
    with ProcessPoolExecutor(_PROCESSES, mp_context=spawn) as pool:
        running: dict[Future[_ChunkResult], int] = {pool.submit(_decode_chunk, *chunk): chunk[1] for chunk in chunks}
        for future in as_completed(running):
            try:
                result = future.result()
            except BrokenProcessPool:
                report.deaths += 1
                report.faults.append(f"a process died near image {running[future]} of seed {seed}")
                break
            report.outcomes.update(result.outcomes)
            report.faults += result.faults
            # The first chunk warms allocators and imports; what comes after that is growth.
            first_mb.setdefault(result.pid, result.rss_mb)
            report.grown_mb = max(report.grown_mb, result.rss_mb - first_mb[result.pid])
    return report


def _decode_chunk(seed: int, start: int, count: int) -> _ChunkResult:
    prepare_decoders()
    decoder = PixelDecoder(SIZE_PX, _MAX_PIXELS)
    originals = seeds()
    result = _ChunkResult([], [], multiprocessing.current_process().pid or 0, 0.0)
    for number in range(start, start + count):
        rng = random.Random(f"{seed}-{number}")  # noqa: S311 - seeds, not secrecy
        outcome = _decode(decoder, mutated(rng.choice(originals), rng.choice(originals), rng))
        result.outcomes.append(outcome)
        if outcome.startswith("fault"):
            result.faults.append(f"image {number} of seed {seed}: {outcome}")
    result.rss_mb = psutil.Process().memory_info().rss / 1e6
    return result


def _decode(decoder: PixelDecoder, data: bytes) -> str:
    try:
        pixels = decoder.decode(data)
    except ImageError as error:
        return error.code
    except BaseException as error:  # the very thing that is looked for
        return f"fault {type(error).__name__}"
    right = pixels.shape == (3, SIZE_PX, SIZE_PX) and pixels.dtype == np.uint8
    return "pixels" if right else f"fault {pixels.shape} {pixels.dtype}"
