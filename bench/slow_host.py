"""One host that answers late: what its batches do to images from quick hosts. A part of `bench.mixed`.

The engine answers at once, so that only the downloads can be in each other's way.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

import numpy as np

from bench.figures import Check, Percentiles
from bench.images import ImageServer, image_server
from bench.instant import instant_pod
from bench.lines import Line, at_most, find, ratio_of, unless_failed, with_ratios
from bench.load import Load, drive
from bench.serving import image_batches, named_files, single_images
from bench.timing import new_process
from bench.trees import Tree, in_turn
from bench.workload import THUMBNAIL, pictures

ALONE, BESIDE = "quick single images alone", "quick single images beside a slow host"
WAIT, P50, P99, FAILED = "p50 over time ms", "p50 ms", "p99 ms", "failed"
MOST_TIMES = 2.0

# To a service that is fair to hosts, another port of the same address could be the same host.
_SLOW_ADDRESS = "127.0.0.2"
_SLOW_S = 3.0
_SLOW = image_batches(THUMBNAIL, 8)
_QUICK = single_images(THUMBNAIL, 2)
_WARM_UP_S = 1.0
_NO_END_S = 3600.0
_NUMBERS_PER_ROW = 20_000


def measure(compared: Sequence[Tree], rounds: int, seconds: float) -> list[Line]:
    """Quick images for `seconds`, alone and beside eight clients with batches from the slow host."""
    taken = defaultdict[tuple[str, Tree], list[float]](list)
    failed = defaultdict[tuple[str, Tree], int](int)
    files = named_files({THUMBNAIL: pictures(THUMBNAIL)})
    with ExitStack() as stack:
        quick = stack.enter_context(image_server(files))
        slow = stack.enter_context(image_server(files, host=_SLOW_ADDRESS, delay_s=_SLOW_S))
        client = stack.enter_context(new_process())
        allowed = {"DOWNLOAD_ALLOW_HOSTS": f"127.0.0.1,{_SLOW_ADDRESS}"}
        pods = {tree: stack.enter_context(instant_pod(tree, allowed)) for tree in compared}
        asking = {tree: _Asking(pod.base_url, quick, slow, client) for tree, pod in pods.items()}
        for tree in compared:
            asking[tree].alone(_WARM_UP_S)
        for tree in in_turn(compared, rounds):
            for what, row in ((ALONE, asking[tree].alone), (BESIDE, asking[tree].beside)):
                answered = row(seconds)
                taken[what, tree] += answered.latencies_ms
                failed[what, tree] += answered.failed
    return with_ratios([_line(what, tree, taken[what, tree], failed[what, tree]) for what, tree in taken])


def checks(lines: Sequence[Line]) -> tuple[Check, ...]:
    """Whoever waits for a slow host waits alone."""
    times = ratio_of(find(lines, BESIDE, WAIT), find(lines, ALONE, WAIT))
    check = at_most(f"{BESIDE}: p50 over time <= {MOST_TIMES:g} times alone", times, MOST_TIMES, " times")
    return (unless_failed(check, find(lines, BESIDE, FAILED)),)


def median_over_time(taken_ms: Sequence[float]) -> float:
    """Half of the time was spent in requests that took at most this long: how long one takes at a usual moment.

    A client that waits sends nothing. Over requests, a stall of seconds is one slow answer among hundreds of quick ones
    that came before it.
    """
    ordered = np.sort(taken_ms)
    spent_ms = np.cumsum(ordered)
    return float(ordered[np.searchsorted(spent_ms, spent_ms[-1] / 2)])


@dataclass(frozen=True, slots=True)
class _Answered:
    latencies_ms: list[float]
    failed: int


class _Asking:
    """The clients of one pod: those of the slow host in the process `client`, the quick ones in this one."""

    def __init__(self, base_url: str, quick: ImageServer, slow: ImageServer, client: ProcessPoolExecutor) -> None:
        self._base_url = base_url
        self._quick = quick
        self._slow = slow
        self._client = client
        self._numbers = count(1, _NUMBERS_PER_ROW)

    def alone(self, seconds: float) -> _Answered:
        outcome = drive(self._quick_load(seconds))
        return _Answered(outcome.latencies_ms, outcome.failed)

    def beside(self, seconds: float) -> _Answered:
        """The quick ones come for as long as the slow ones do."""
        load = Load(self._base_url, _SLOW.work(self._slow), _SLOW.clients, seconds, next(self._numbers))
        running = self._client.submit(drive, load)
        outcome = drive(self._quick_load(_NO_END_S), stopped=running.done)
        return _Answered(outcome.latencies_ms, outcome.failed + running.result().failed)

    def _quick_load(self, seconds: float) -> Load:
        return Load(self._base_url, _QUICK.work(self._quick), _QUICK.clients, seconds, next(self._numbers))


def _line(what: str, tree: Tree, taken_ms: Sequence[float], failed: int) -> Line:
    of_all = Percentiles.of(taken_ms)
    waits = {WAIT: median_over_time(taken_ms), P50: of_all.p50, P99: of_all.p99}
    return Line(what, tree.label, {**waits, FAILED: float(failed)})
