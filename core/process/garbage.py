"""Python's collector of cyclic garbage: kept off what lives as long as the process, and off what it would break."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_from_collector() -> Iterator[None]:
    """For entry points. Nothing is collected inside the block, and what is there at its end is never looked at again.

    Modules and a model are 200,000 objects. A full collection goes through all of them and holds the GIL meanwhile:
    every request and every health check then waits for 70-100 ms, now and then, and a start pays for it several times.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def collected_before() -> Iterator[None]:
    """What is garbage by now is collected first, and nothing inside the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
