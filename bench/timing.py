"""Repeat a call for a while and count. For measurements in process; nothing here knows what it times."""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import ParamSpec, TypeVar

from bench.figures import Row
from bench.machine import busy_cpu_s
from core.process import cpu

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def calls_per_s(call: Callable[[], object], seconds: float) -> float:
    """Call again and again, once unmeasured and at least twice measured; returns the rate."""
    call()
    calls, started_s = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - started_s < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - started_s)


@dataclass(frozen=True, slots=True)
class Rates:
    """Several measurements of one rate."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    def times(self, factor: float) -> "Rates":
        """Of calls that each do `factor` things."""
        return Rates(tuple(value * factor for value in self.values))

    def row(self, section: str, what: str, unit: str) -> Row:
        """The median, with the range."""
        return Row(section, what, self.median, unit, low=min(self.values), high=max(self.values))


def rates(
    call: Callable[[], object], *, seconds: float, rounds: int, calls_per_wait: int, wait: Callable[[], None]
) -> Rates:
    """Measure `rounds` times for `seconds`: enqueue `calls_per_wait` calls, wait for them, again."""
    call()
    wait()
    return Rates(tuple(_enqueued_per_s(call, seconds, calls_per_wait, wait) for _ in range(rounds)))


def _enqueued_per_s(call: Callable[[], object], seconds: float, calls_per_wait: int, wait: Callable[[], None]) -> float:
    calls, started_s = 0, time.perf_counter()
    while not calls or time.perf_counter() - started_s < seconds:
        for _ in range(calls_per_wait):
            call()
        wait()
        calls += calls_per_wait
    return calls / (time.perf_counter() - started_s)


def call_times_ms(call: Callable[[], object], calls: int) -> list[float]:
    """How long each of `calls` calls takes, after a tenth as many that are not counted."""
    times_ms = []
    for _ in range(calls // 10 + calls):
        started_s = time.perf_counter()
        call()
        times_ms.append((time.perf_counter() - started_s) * 1000)
    return times_ms[-calls:]


def isolated(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> tuple[Result, float]:
    """Call in a fresh interpreter: thread pools and memory of one measurement end before the next begins.

    Returns the result, and the cores that the rest of the machine used meanwhile.
    """
    started_s, others_s = time.monotonic(), busy_cpu_s() - _own_cpu_s()
    with new_process() as pool:
        result = pool.submit(function, *args, **kwargs).result()
    return result, max(0.0, busy_cpu_s() - _own_cpu_s() - others_s) / (time.monotonic() - started_s)


def _own_cpu_s() -> float:
    """Of this process and of those of its children that have ended."""
    of_both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in of_both)


def new_process() -> ProcessPoolExecutor:
    """One fresh interpreter that takes calls."""
    # As the service sets it, and before anything there imports torch.
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_limit_threads)


def _limit_threads() -> None:
    cpu.limit_library_threads(cpu.available_cores())
