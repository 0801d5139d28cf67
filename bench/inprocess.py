"""The measurements that load torch, for a process of their own: nothing is imported until one is called.

Whoever starts those processes, and the lean clients beside them, stays without torch.
"""

from collections.abc import Mapping, Sequence

from bench.figures import Row
from core.settings import ServiceSettings


def naive(model: str, jpegs: Mapping[str, Sequence[bytes]], seconds: float) -> list[Row]:
    """See `bench.naive.measure`."""
    from bench.naive import measure

    return measure(model, jpegs, seconds)


def engine(settings: ServiceSettings, seconds: float) -> list[Row]:
    """See `bench.engine.measure_engine`."""
    from bench.engine import measure_engine

    return measure_engine(settings, seconds)


def decode(jpegs: Mapping[str, Sequence[bytes]], settings: ServiceSettings, seconds: float) -> list[Row]:
    """See `bench.engine.measure_decode`."""
    from bench.engine import measure_decode

    return measure_decode(jpegs, settings, seconds)
