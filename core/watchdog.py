"""Notices, from a thread of its own, that the device is lost or that something is stuck, and ends the process.

A fresh process is the only cure that always works: a lost CUDA context cannot be made anew in this one, and a thread
that hangs in a driver cannot be stopped. Who starts the fresh one (gunicorn's master, the platform) is not known here.

Nobody else ends a process that is stuck. What is stuck is counted in rounds and not on the clock, so that no pause,
however long, looks like a hang; a sentinel process does the same for the watchdog.
"""

import faulthandler
import logging
import math
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from core.process.sentinel import Sentinel, end_on_abort
from core.process.stillness import Stillness
from core.service import Service, Status

logger = logging.getLogger(__name__)

# Not 0, which looks like a wish; and not 3 or 4, with which gunicorn's workers end the master too.
FAULT_EXIT_STATUS = 70

_PERIOD_S = 0.5

# A round that comes later than this was late because everybody was: a paused process, or a machine without time.
_MOST_S = 2 * _PERIOD_S

_LOOK_S = 0.05

# Loading a library from a slow disk may hold the interpreter lock for a minute; a driver that hangs holds it for good.
_LOADING_S = 300.0

_LOST = "the device is lost"


@dataclass(frozen=True, slots=True)
class WatchdogLimits:
    """`grace_s` is for what waits to be told so; `parting_s` for the answers to be written after that."""

    forward_s: float
    hub_s: float
    grace_s: float = 10.0
    parting_s: float = 0.5


class Watchdog:
    """`part` is called when all who wait for the model have been told, so that nobody new comes; then `end`, once,
    which ends the process.
    """

    def __init__(
        self,
        service: Service,
        limits: WatchdogLimits,
        *,
        end: Callable[[], None],
        part: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._limits = limits
        self._part = part
        self._end = end
        self._clock = clock
        self._last_look_s = clock()
        self._hub = Stillness(_MOST_S)
        self._devices: defaultdict[int, Stillness] = defaultdict(lambda: Stillness(_MOST_S))
        self._sentinel: Sentinel | None = None

    def start(self) -> None:
        """Watch on a daemon thread for as long as the process lives, and have a sentinel watch over that thread."""
        end_on_abort()
        self._sentinel = Sentinel()
        self._show_life()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def look(self) -> str | None:
        """One round: what is wrong, or None."""
        now_s = self._clock()
        elapsed_s, self._last_look_s = now_s - self._last_look_s, now_s
        hub_s = self._hub.look(self._service.beats, elapsed_s)
        for device, serial in enumerate(self._service.pass_serials):
            self._devices[device].look(serial, elapsed_s)
        if self._service.status is Status.UNHEALTHY:
            return _LOST
        if self._forward_s() > self._limits.forward_s:
            return "a forward pass is stuck"
        if hub_s > self._limits.hub_s:
            return "the thread that holds the connections is stuck"
        return None

    def give_up(self, fault: str) -> None:
        """Log every thread's stack, answer whoever waits for the model, and end the process."""
        logger.critical("ending this process", extra={"fault": fault, "forward_s": round(self._forward_s(), 1)})
        if fault != _LOST:
            # Files, lines and functions, no values: nothing of a request can be in it.
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        self._service.fail()
        if self._hub.still_s <= self._limits.hub_s:
            self._wait(self._limits.grace_s, until=lambda: self._service.idle)
            self._part()
            self._wait(self._limits.parting_s)
        self._end()

    def _watch(self) -> None:
        while (fault := self.look()) is None:
            self._show_life()
            time.sleep(_PERIOD_S)
        self.give_up(fault)

    def _forward_s(self) -> float:
        """For how long the longest of the present forward passes has been running, pauses not counted."""
        return max((device.still_s for device in self._devices.values()), default=0.0)

    def _wait(self, most_s: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Also in rounds: nobody can be answered in a pause."""
        for _ in range(math.ceil(most_s / _LOOK_S)):
            if until():
                return
            self._show_life()
            time.sleep(_LOOK_S)

    def _show_life(self) -> None:
        if self._sentinel is not None:
            loading = self._service.status is Status.LOADING
            # Longer than the limit, so that a watchdog that can still run is the first to see that the hub is stuck.
            self._sentinel.alive(_LOADING_S if loading else self._limits.hub_s + 2 * _PERIOD_S)
