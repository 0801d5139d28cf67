"""The SDK's loop with an end that loses no job. Imports the SDK, so only the entry point may import this.

The SDK's own end stops running jobs while its last poll is still on its way; what that poll brings has been taken
from the queue, and is never run. Here nothing new is asked for, what comes is run, and only then the loops end.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from runpod.serverless.modules import rp_scale  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

_LOOK_S = 0.1

# Jobs come several in one JSON, and one that nests deeper than Python's usual thousand calls would lose all of them:
# they have left the queue. Ten thousand levels are what the parsers of platforms let through; each takes 200 bytes of
# stack, of which there are 8 MB.
_DEEPEST_CALLS = 11_000

# Between two polls of which the first has failed.
_AFTER_FAILURE_S = 1.0


class DrainingScaler(rp_scale.JobScaler):  # type: ignore[misc]
    """`kill_worker` is what SIGTERM comes to. A result with `refresh_worker` tells the platform alone: `is_lost` says
    that no job can be done here any more, and has the same end.
    """

    jobs_fetcher: Any

    def __init__(self, config: dict[str, Any], *, is_lost: Callable[[], bool]) -> None:
        super().__init__(config)
        self._is_lost = is_lost
        self._draining = False
        self._poll = self.jobs_fetcher
        self.jobs_fetcher = self._poll_until_draining

    def kill_worker(self) -> None:
        """Take no more jobs, run those that are here, then end. Safe in a signal handler."""
        self._draining = True

    async def monitor_stop_signals(self, session: Any) -> None:  # noqa: ANN401 - the SDK's
        """The SDK would wait for its last poll, which the platform holds open for a minute and more."""
        watching = asyncio.create_task(super().monitor_stop_signals(session))
        await self._shutdown_event.wait()
        watching.cancel()
        await asyncio.wait([watching])

    async def _poll_until_draining(self, session: Any, jobs_needed: int) -> Any:  # noqa: ANN401 - the SDK's
        if not self._draining and not self._is_lost():
            return await self._poll_gently(session, jobs_needed)
        while self.current_occupancy() > 0:
            await asyncio.sleep(_LOOK_S)
        super().kill_worker()
        return None

    async def _poll_gently(self, session: Any, jobs_needed: int) -> Any:  # noqa: ANN401 - the SDK's
        """Where the platform cannot be reached the SDK asks again at once, and writes a line of log each time."""
        try:
            return await self._poll(session, jobs_needed)
        except Exception:
            await asyncio.sleep(_AFTER_FAILURE_S)
            raise


def install(*, is_lost: Callable[[], bool]) -> None:
    """Have `runpod.serverless.start` use this loop; it offers no way to pass one."""
    sys.setrecursionlimit(_DEEPEST_CALLS)
    rp_scale.JobScaler = partial(DrainingScaler, is_lost=is_lost)
