"""Milliseconds of processor per image from file bytes to model pixels, in one process: `-m decode_alone FILE...`.

`bench.host` runs it inside the checkout that is measured, which may be an older one: see instant_pod.
"""

import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SIZE_PX = 224
_MAX_PIXELS = 50_000_000
# Where the decoder is, and where it was.
_MODULES = ("core.images.decoding.pixels", "core.pixels")
_DECODES = 300


def decoder() -> Any:  # noqa: ANN401 - of any commit
    """Raises `ModuleNotFoundError` for a checkout that has it in neither place."""
    for name in _MODULES:
        try:
            return importlib.import_module(name).PixelDecoder(_SIZE_PX, _MAX_PIXELS)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"no decoder in {_MODULES}")


def as_in_an_image_process() -> None:
    """Begin again in the environment that image processes have, in a checkout that has any."""
    # Not by importing it: an editable installation of another checkout would lend this one its modules.
    if not Path("core/images/process.py").is_file():
        return
    environment = importlib.import_module("core.images.process").OWN_ENVIRONMENT
    if not environment.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **environment})  # noqa: S606


def main(paths: Sequence[str]) -> None:
    """Print one number: the mean over all decodes, after the first tenth."""
    files = [Path(path).read_bytes() for path in paths]
    decode = decoder().decode
    for number in range(_DECODES // 10):
        decode(files[number % len(files)])
    started_s = time.process_time()
    for number in range(_DECODES):
        decode(files[number % len(files)])
    print((time.process_time() - started_s) / _DECODES * 1000)


if __name__ == "__main__":
    as_in_an_image_process()
    main(sys.argv[1:])
