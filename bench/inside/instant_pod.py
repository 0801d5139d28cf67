"""The pod around an engine that answers at once, and a route that names the threads: `bench.host` has gunicorn run it.

It runs inside the checkout that is measured, which may be an older one. So it imports only names that all of them
have, and lies in a folder that is no package: `bench` is there what that checkout has under the name.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from flask import Flask

from core.clip import choice

# Any pass of a GPU ends in rows that are neither zero nor the service's own buffers.
_FILL = 0.5


class InstantEngine:
    """No arithmetic: fixed rows of (n, dim). Its device is no CPU, so that decodes and passes need not take turns."""

    name = "instant"
    device = "cuda"
    dtype = "float16"
    out_of_memory = (MemoryError,)

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self._rows(len(pixels))

    def encode_texts(self, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self._rows(len(token_ids))

    def prepare_thread(self) -> None:
        """Called once by the thread that owns the engine, where a commit has it so."""

    def _rows(self, count: int) -> npt.NDArray[np.float32]:
        return np.full((count, self._dim), _FILL, dtype=np.float32)


def load_instant_engines(*given: Any, **named: Any) -> list[InstantEngine]:  # noqa: ANN401 - of any commit's signature
    """Stands for `core.clip.choice.load_engines`; as many as that starts for one GPU."""
    dim = next(value.dim for value in (*given, *named.values()) if hasattr(value, "dim"))
    return [InstantEngine(dim) for _ in range(getattr(choice, "_STREAMS_PER_GPU", 1))]


def name_threads() -> dict[str, Any]:
    """The body of /bench/threads. Threads that Python has not started are not among them."""
    return {"threads": {thread.native_id: thread.name for thread in threading.enumerate()}}


def make_app() -> Flask:
    """The pod's own application. The engine is replaced first, before anything takes `load_engines` by name."""
    choice.load_engines = load_instant_engines  # type: ignore[assignment]
    from pod.wsgi import app as pod

    pod.add_url_rule("/bench/threads", "bench-threads", name_threads, methods=["GET"])
    return pod


app = make_app()
