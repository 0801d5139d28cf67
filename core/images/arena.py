"""Memory that the service shares with one image process: slots for finished pixels, what it is decoding and what waits.

A file without a name; it goes when both have let go of it. Pages that were never written take no memory.
"""

import heapq
import mmap
import os
from dataclasses import dataclass

import numpy as np

_HEADER_BYTES = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Decoding:
    """The image that is being decoded, and the processor time of the process when that began, in nanoseconds."""

    job_id: int
    began_cpu_ns: int


class Arena:
    """`slots` squares of uint8 (3, size_px, size_px) behind a header. Both sides open the same `descriptor`."""

    def __init__(self, descriptor: int, *, size_px: int, slots: int) -> None:
        shape = (slots, 3, size_px, size_px)
        self._map = mmap.mmap(descriptor, _HEADER_BYTES + slots * 3 * size_px**2)
        self._header = np.frombuffer(self._map, dtype=np.int64, count=3)
        self.slots = np.frombuffer(self._map, dtype=np.uint8, offset=_HEADER_BYTES).reshape(shape)

    @staticmethod
    def create(*, size_px: int, slots: int) -> int:
        """Return the descriptor of a new one; it is inherited only where it is passed on."""
        descriptor = os.memfd_create("images", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _HEADER_BYTES + slots * 3 * size_px**2)
        return descriptor

    def note_decoding(self, job_id: int, cpu_ns: int) -> None:
        """Of the image process: a decode begins; the number comes last, so that it never stands beside an old time."""
        self._header[1] = cpu_ns
        self._header[0] = job_id

    def note_idle(self) -> None:
        """Of the image process: no decode runs."""
        self._header[0] = 0

    def note_waiting(self, images: int) -> None:
        """Of the image process: so many wait for its decoder."""
        self._header[2] = images

    @property
    def waiting(self) -> int:
        """Of the service: how many have arrived and wait for the decoder."""
        return int(self._header[2])

    @property
    def decoding(self) -> Decoding | None:
        """Of the service: what is being decoded right now."""
        job_id, cpu_ns = int(self._header[0]), int(self._header[1])
        # Read again: between the two readings another decode may have begun.
        return Decoding(job_id, cpu_ns) if job_id and job_id == int(self._header[0]) else None


class FreeSlots:
    """Which slots of an arena are free; the lowest first, so that few pages are ever written. Not thread-safe."""

    def __init__(self, slots: int) -> None:
        self._returned: list[int] = []
        self._never_used = 0
        self._slots = slots

    def take(self) -> int | None:
        """A free slot, None when all are taken."""
        if self._returned:
            return heapq.heappop(self._returned)
        if self._never_used == self._slots:
            return None
        self._never_used += 1
        return self._never_used - 1

    def give_back(self, slot: int) -> None:
        heapq.heappush(self._returned, slot)
