"""Decode and resize on one thread, as a ratio to the way it was done before: JPEG at any scale, torch's resize.

`python -m bench.pixels` prints a table. The two take turns within one run, and what is counted is the thread's
processor time: others on the machine slow both, and little.
"""

import time
from collections.abc import Callable

import simplejpeg  # type: ignore[import-untyped]
import torch

from core.images.decoding.pixels import PixelDecoder
from core.images.decoding.resizing import Pixels
from tools.testbed.pictures import encoded, natural

_SIZE_PX = 224
_SIZES = ((512, 512), (960, 540), (1920, 1080), (4000, 3000))
_ROUNDS = 40


def main() -> None:
    """Print milliseconds of the processor, the best of all rounds, and their ratio."""
    torch.set_num_threads(1)
    decoder = PixelDecoder(_SIZE_PX, max_pixels=50_000_000)
    print(f"{'':12}{'kB':>8}{'before':>9}{'now':>9}{'ratio':>8}")
    for width, height in _SIZES:
        jpeg = encoded(natural(width, height), "JPEG", quality=88)
        before_ms, now_ms = _best_ms(lambda data=jpeg: _before(data), lambda data=jpeg: decoder.decode(data))  # type: ignore[misc]
        name = f"{width}x{height}"
        print(f"{name:12}{len(jpeg) / 1000:8.0f}{before_ms:9.2f}{now_ms:9.2f}{now_ms / before_ms:8.2f}")


def _best_ms(*calls: Callable[[], object]) -> list[float]:
    times_ms: list[list[float]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for call, of_call in zip(calls, times_ms, strict=True):
            started_s = time.thread_time()
            call()
            of_call.append((time.thread_time() - started_s) * 1000)
    return [min(of_call) for of_call in times_ms]


def _before(data: bytes) -> Pixels:
    least = 2 * _SIZE_PX
    rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least, strict=True)
    short = min(rgb.shape[:2])
    target = [_SIZE_PX * side // short for side in rgb.shape[:2]]
    tensor = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0)
    tensor = torch.nn.functional.interpolate(tensor, size=target, mode="bicubic", antialias=True)
    top, left = ((side - _SIZE_PX) // 2 for side in target)
    pixels: Pixels = tensor[0, :, top : top + _SIZE_PX, left : left + _SIZE_PX].contiguous().numpy()
    return pixels


if __name__ == "__main__":
    main()
