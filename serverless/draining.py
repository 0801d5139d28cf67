"""The SDK's loop with an end that loses no job. Imports the SDK, so only the entry point may import this.

The SDK's own end stops running jobs while its last poll is still on its way; what that poll brings has been taken
from the queue, and is never run. Here nothing new is asked for, what comes is run, and only then the loops end.
"""

import asyncio
import logging
from typing import Any

from runpod.serverless.modules import rp_scale  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

_LOOK_S = 0.1


class DrainingScaler(rp_scale.JobScaler):  # type: ignore[misc]
    """`kill_worker` is what SIGTERM and a result with `refresh_worker` come to."""

    jobs_fetcher: Any

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._draining = False
        self._poll = self.jobs_fetcher
        self.jobs_fetcher = self._poll_until_draining

    def kill_worker(self) -> None:
        """Take no more jobs, run those that are here, then end. Safe in a signal handler."""
        self._draining = True

    async def _poll_until_draining(self, session: Any, jobs_needed: int) -> Any:  # noqa: ANN401 - the SDK's
        if not self._draining:
            return await self._poll(session, jobs_needed)
        while self.current_occupancy() > 0:
            await asyncio.sleep(_LOOK_S)
        super().kill_worker()
        return None


def install() -> None:
    """Have `runpod.serverless.start` use this loop; it offers no way to pass one."""
    rp_scale.JobScaler = DrainingScaler
