"""Images to pixels by the service's own image processes, many at once, each host within its places.

Knows nothing of Ray. What a stranger's image does to its decoder is between the two of them: see `core.images.pool`.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from bulk.downloads import Downloads
from bulk.hosts import Hosts
from bulk.outcomes import Reject
from bulk.places import Place
from bulk.sources import Source, read_file
from core.byte_budget import ByteBudget
from core.deadline import Deadline
from core.errors import DeadlineExceeded, InternalError, Overloaded, ServiceError
from core.images.content import SentImages, SentLimits
from core.images.fetch.urls import host_of
from core.images.job import ImageJob, Pixels
from core.images.pool import ImageProcesses
from core.images.process import PROGRAM
from core.images.settings import child_settings
from core.settings import ServiceSettings
from shared_auth.contract import MAX_URL_CHARACTERS

# What an image process says of itself and not of the image: another try costs nothing but time.
_OF_NO_IMAGE = (Overloaded, DeadlineExceeded, InternalError)
_MAX_TRIES = 3

# Beyond its download an image waits for its turn to be decoded, behind at most two pieces.
_MAX_WAIT_S = 300.0

# More than wait for a host as a rule; an image process looks through all that wait whenever one has come.
_DOWNLOADS_PER_PROCESS = 64

# Files that are read and sent to image processes at once; of the largest allowed, 320 MB.
_FILES_AT_ONCE = 16
_GROUPS_AT_ONCE = 2


@dataclass(slots=True, eq=False)
class _Call:
    """One call of `pixels`: where the pixels go, and how many images it still waits for."""

    pixels: Pixels
    rejects: list[Reject | None]
    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)

    def settle(self, index: int, outcome: Pixels | Reject) -> None:
        if isinstance(outcome, Reject):
            self.rejects[index] = outcome
        else:
            self.pixels[index] = outcome
        with self.lock:
            self.left -= 1
            if self.left == 0:
                self.done.set()


@dataclass(slots=True, eq=False)
class _Download:
    """An image by URL: see `bulk.downloads.Download`."""

    call: _Call
    index: int
    url: str
    host: str
    tries: int = 1


@dataclass(slots=True, eq=False)
class _SentGroup:
    """Files that were read together: the room that they take is free again when the last one has been decoded."""

    images: SentImages
    room: threading.Semaphore
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def one_less(self) -> None:
        with self.lock:
            self.left -= 1
            is_last = self.left == 0
        if is_last:
            self.close()

    def close(self) -> None:
        self.images.close()
        self.room.release()


@dataclass(slots=True, eq=False)
class _SentFile:
    """An image by its content."""

    call: _Call
    index: int
    group: _SentGroup


class Decoder:
    """Thread-safe: as many calls at once as there are askers. `close` ends its processes.

    `program` is the module that one of them runs.
    """

    def __init__(
        self, settings: ServiceSettings, size_px: int, *, processes: int, hosts: Hosts, program: str = PROGRAM
    ) -> None:
        """Raises `StartError`."""
        self._settings = settings
        self._size_px = size_px
        self._groups = threading.Semaphore(_GROUPS_AT_ONCE)
        most_bytes = _GROUPS_AT_ONCE * _FILES_AT_ONCE * settings.max_image_size_bytes
        self._sent = SentLimits(settings.max_image_size_bytes, ByteBudget(most_bytes))
        self._images = ImageProcesses(
            child_settings(settings, size_px, processes=processes, in_turns=False),
            self,
            processes=processes,
            budget_s=settings.max_decode_cpu_s,
            program=program,
        )
        self._images.start()
        self._images.wait_until_ready()
        self._readers = ThreadPoolExecutor(_FILES_AT_ONCE, "read-image")
        self._downloads = Downloads(hosts, self._begin, most=processes * _DOWNLOADS_PER_PROCESS)

    @property
    def healthy(self) -> bool:
        """Whether image processes can still be started."""
        return self._images.healthy

    def pixels(self, sources: Sequence[Source]) -> tuple[Pixels, list[Reject | None]]:
        """Return uint8 (n, 3, size, size), and for each image None or why its pixels are of no meaning."""
        shape = (len(sources), 3, self._size_px, self._size_px)
        call = _Call(np.zeros(shape, np.uint8), [None] * len(sources), len(sources))
        self._add_downloads(call, sources)
        self._send_files(call, sources)
        call.done.wait()
        return call.pixels, call.rejects

    def close(self) -> None:
        """End the processes and threads; nobody may be waiting."""
        self._downloads.close()
        self._readers.shutdown()
        self._images.close()

    def _add_downloads(self, call: _Call, sources: Sequence[Source]) -> None:
        downloads = []
        for index, source in enumerate(sources):
            if source is None:
                call.settle(index, Reject("VALIDATION_ERROR", "there is nothing in this row", retryable=False))
            elif isinstance(source, Reject):
                call.settle(index, source)
            elif isinstance(source, str):
                refused = _refused_url(source)
                if refused is not None:
                    call.settle(index, refused)
                else:
                    downloads.append(_Download(call, index, source, host_of(source)))
        self._downloads.add(downloads)

    def _begin(self, downloads: Sequence[_Download]) -> None:
        deadline = Deadline.after(self._settings.image_download_timeout_s + _MAX_WAIT_S)
        jobs = [ImageJob(download.url, deadline, owner=download) for download in downloads]
        self._images.begin(jobs, at_once=len(jobs))

    def _send_files(self, call: _Call, sources: Sequence[Source]) -> None:
        """Group by group: what is held of files has an end, however many there are."""
        given = iter([(index, source) for index, source in enumerate(sources) if isinstance(source, Place | bytes)])
        while group := list(islice(given, _FILES_AT_ONCE)):
            self._groups.acquire()
            self._send_group(call, group)

    def _send_group(self, call: _Call, group: Sequence[tuple[int, Place | bytes]]) -> None:
        sent = _SentGroup(SentImages(self._sent), self._groups)
        deadline = Deadline.after(_MAX_WAIT_S)
        jobs = []
        for (index, _), content in zip(group, self._readers.map(self._content, [one for _, one in group]), strict=True):
            taken = content if isinstance(content, Reject) else sent.images.take_file(content)
            if isinstance(taken, Reject):
                call.settle(index, taken)
            elif taken.content is None:
                call.settle(index, _reject(taken.error))
            else:
                jobs.append(ImageJob("", deadline, taken.content, owner=_SentFile(call, index, sent)))
        sent.images.seal()
        sent.left = len(jobs)
        if jobs:
            self._images.begin(jobs, at_once=_FILES_AT_ONCE)
        else:
            sent.close()

    def _content(self, source: Place | bytes) -> bytes | Reject:
        return source if isinstance(source, bytes) else read_file(source, self._settings.max_image_size_bytes)

    # From here on the threads of the image processes call: a `core.images.job.Listener`.

    def fetched(self, jobs: Sequence[ImageJob]) -> None:
        """Never: decodes take no turns here."""

    def delayed(self, jobs: Sequence[ImageJob]) -> None:
        """Whoever waits does so for all of a piece."""

    def ended(self, jobs: Sequence[ImageJob]) -> None:
        again = []
        for job in jobs:
            image: _Download | _SentFile = job.owner
            if isinstance(image, _Download) and isinstance(job.error, _OF_NO_IMAGE) and image.tries < _MAX_TRIES:
                image.tries += 1
                again.append(image)
            else:
                image.call.settle(image.index, _reject(job.error) if job.pixels is None else job.pixels)
        self._images.release(jobs)
        self._downloads.add(again)
        self._downloads.ended([job.owner for job in jobs if isinstance(job.owner, _Download)])
        for job in jobs:
            if isinstance(job.owner, _SentFile):
                job.owner.group.one_less()


def _reject(error: ServiceError | None) -> Reject:
    known = error or InternalError()
    return Reject(known.code, known.message, known.retryable)


def _refused_url(url: str) -> Reject | None:
    """By the limits of a request."""
    if 0 < len(url) <= MAX_URL_CHARACTERS:
        return None
    message = f"a URL has 1 to {MAX_URL_CHARACTERS} characters"
    return Reject("VALIDATION_ERROR", message, retryable=False)
