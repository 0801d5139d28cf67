"""One image on its way from a URL, or from bytes that were sent, to pixels, as whoever asks for it sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from core.deadline import Deadline
from core.errors import ServiceError
from core.images.content import Content

Pixels = npt.NDArray[np.uint8]


@dataclass(slots=True, eq=False)
class ImageJob:
    """Has a `url`, or its bytes as `content`, which stay open until `ImageProcesses.release`. So do the `pixels`, uint8
    (3, size, size), in memory that is shared with the process that made them. `owner` is the asker's own; times are in
    milliseconds, and began on the monotonic clock, 0 if not at all.
    """

    url: str
    deadline: Deadline
    content: Content | None = None
    owner: Any = None
    pixels: Pixels | None = None
    error: ServiceError | None = None
    sha256: str = ""
    """Of the file, in hex; empty until it is known."""
    claimed: bool = False
    """Whether the cache has been asked for its row."""
    slow: bool = False
    """Whether its decode takes long, and goes on alone where it has begun."""
    download_began_s: float = 0.0
    download_ms: float = 0.0
    decode_began_s: float = 0.0
    decode_ms: float = 0.0


class PixelStack:
    """Makes one uint8 (n, 3, size_px, size_px) batch of the pixels of n jobs; the next one overwrites it.

    New memory for each would cost more than the copy: it comes from the kernel page by page. One per device.
    """

    def __init__(self, size_px: int) -> None:
        self._batch = np.empty((0, 3, size_px, size_px), dtype=np.uint8)

    def __call__(self, jobs: Sequence[ImageJob]) -> Pixels:
        if len(jobs) > len(self._batch):
            self._batch = np.empty((len(jobs), *self._batch.shape[1:]), dtype=np.uint8)
        return np.stack([job.pixels for job in jobs if job.pixels is not None], out=self._batch[: len(jobs)])


class Listener(Protocol):
    """Who is told what becomes of images; called from the pool's threads, quick, never blocking for long."""

    def fetched(self, jobs: Sequence[ImageJob]) -> None:
        """These could be decoded now, and are when `ImageProcesses.decode` is called. Only with decoding in turns."""

    def ended(self, jobs: Sequence[ImageJob]) -> None:
        """Each of these has its pixels or its error."""

    def delayed(self, jobs: Sequence[ImageJob]) -> None:
        """Whoever waits for the decoding of these should not: it takes long (`ImageJob.slow`), or begins again
        elsewhere, with a download that may give another file.
        """
