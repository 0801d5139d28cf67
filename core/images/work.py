"""What an image process has been given, and the rule for its threads."""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from core.deadline import Cancellation, Deadline
from core.images.fairness import Download

logger = logging.getLogger(__name__)

# Of a thread. Many of them wait for a server and none calls deeply; the usual eight mebibytes would count as memory.
STACK_BYTES = 512 * 1024


@dataclass(slots=True, eq=False)
class Part:
    """What one request has given to this process. Reported together, or image by image where they take turns."""

    number: int
    deadline: Deadline
    cancellation: Cancellation
    at_once: int
    left: int
    descriptor: int | None = None
    """Of the file with the images that were sent; closed with the part."""
    reports: list[list[Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Task:
    """One image; `held` gives the bytes of its download back. What was sent is a `sent` part of its part's file: offset
    and size.
    """

    job_id: int
    url: str
    slot: int
    part: Part
    download: Download
    sent: tuple[int, int] | None = None
    data: bytes = b""
    download_began_s: float = 0.0
    download_ms: float = 0.0
    sha256: str = ""
    held: ExitStack = field(default_factory=ExitStack)

    def read_sent(self) -> None:
        """Have the bytes of an image that was sent as `data`. Raises `OSError`, and `EOFError` if there are fewer."""
        if self.sent is None or self.part.descriptor is None:
            return
        offset, size = self.sent
        self.data = os.pread(self.part.descriptor, size, offset)
        if len(self.data) != size:
            raise EOFError


def or_end_process(run: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401 - those of `run`
    """What nobody has foreseen ends the process, and its work begins again elsewhere: whoever waits for a thread that
    is lost would wait for ever.
    """
    try:
        run(*arguments)
    except BaseException:
        logger.critical("an image process cannot go on", exc_info=True)
        os._exit(1)
