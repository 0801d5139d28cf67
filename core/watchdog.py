"""Notices, from a thread of its own, that the device is lost or that something is stuck, and ends the process.

A fresh process is the only cure that always works: a lost CUDA context cannot be made anew in this one, and a thread
that hangs in a driver cannot be stopped. Who starts the fresh one (gunicorn's master, the platform) is not known here.
"""

import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.service import Service, Status

logger = logging.getLogger(__name__)

# Not 0, which looks like a wish; and not 3 or 4, with which gunicorn's workers end the master too.
FAULT_EXIT_STATUS = 70

_PERIOD_S = 0.5

_LOST = "the device is lost"

# A round that comes this late means that the whole process stood still (a paused machine, SIGSTOP): silence proves
# nothing then.
_PAUSED_S = 3.0


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

    def start(self) -> None:
        """Watch on a daemon thread for as long as the process lives."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def look(self) -> str | None:
        """One round: what is wrong, or None."""
        now_s = self._clock()
        paused, self._last_look_s = now_s - self._last_look_s > _PAUSED_S, now_s
        if self._service.status is Status.UNHEALTHY:
            return _LOST
        if self._service.forward_s() > self._limits.forward_s:
            return "a forward pass is stuck"
        if self._service.silence_s() > self._limits.hub_s and not paused:
            return "the thread that holds the connections is stuck"
        return None

    def give_up(self, fault: str) -> None:
        """Log every thread's stack, answer whoever waits for the model, and end the process."""
        connected = self._service.silence_s() < self._limits.hub_s
        logger.critical("ending this process", extra={"fault": fault, "forward_s": round(self._service.forward_s(), 1)})
        if fault != _LOST:
            # Files, lines and functions, no values: nothing of a request can be in it.
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        self._service.fail()
        if connected:
            self._wait_until_told()
        self._end()

    def _wait_until_told(self) -> None:
        until_s = self._clock() + self._limits.grace_s
        while not self._service.idle and self._clock() < until_s:
            time.sleep(0.05)
        self._part()
        time.sleep(self._limits.parting_s)

    def _watch(self) -> None:
        limits = self._limits
        # The second net, in C: it needs no interpreter lock, which whatever is stuck may be holding.
        second_net_s = limits.hub_s + limits.grace_s + limits.parting_s + _PERIOD_S
        while True:
            faulthandler.dump_traceback_later(second_net_s, exit=True)
            fault = self.look()
            if fault is not None:
                self.give_up(fault)
                return
            time.sleep(_PERIOD_S)
