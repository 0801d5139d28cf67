"""Images to pixels by the service's own image processes, many at once, each host within its places.

Knows nothing of Ray. What a stranger's image does to its decoder is between the two of them: see `core.images.pool`.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from bulk.hosts import Hosts, Need
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
from core.images.settings import child_settings
from core.settings import ServiceSettings
from shared_auth.contract import MAX_URL_CHARACTERS

logger = logging.getLogger(__name__)

# What an image process says of itself and not of the image: another try costs nothing but time.
_OF_NO_IMAGE = (Overloaded, DeadlineExceeded, InternalError)
_MAX_TRIES = 3

# Beyond its download an image waits for its turn to be decoded, behind at most two pieces.
_MAX_WAIT_S = 300.0

# How soon places that another machine has given back are asked for.
_ASK_AGAIN_S = 0.2

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
    """An image by URL: `host` has a place for it while it is under way."""

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
    """Thread-safe: as many calls at once as there are askers. `close` ends its processes."""

    def __init__(self, settings: ServiceSettings, size_px: int, *, processes: int, hosts: Hosts) -> None:
        """Raises `StartError`."""
        self._settings = settings
        self._size_px = size_px
        self._hosts = hosts
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[_Download]] = {}
        self._busy: Counter[str] = Counter()
        self._granted: dict[str, int] = {}
        self._asked_s = 0.0
        self._closing = False
        self._groups = threading.Semaphore(_GROUPS_AT_ONCE)
        most_bytes = _GROUPS_AT_ONCE * _FILES_AT_ONCE * settings.max_image_size_bytes
        self._sent = SentLimits(settings.max_image_size_bytes, ByteBudget(most_bytes))
        self._images = ImageProcesses(
            child_settings(settings, size_px, processes=processes, in_turns=False),
            self,
            processes=processes,
            budget_s=settings.max_decode_cpu_s,
        )
        self._images.start()
        self._images.wait_until_ready()
        self._readers = ThreadPoolExecutor(_FILES_AT_ONCE, "read-image")
        self._begins = threading.Thread(target=self._begin_downloads, name="begin-downloads", daemon=True)
        self._begins.start()

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
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._begins.join()
        self._readers.shutdown()
        self._images.close()

    def _add_downloads(self, call: _Call, sources: Sequence[Source]) -> None:
        downloads = []
        for index, source in enumerate(sources):
            if source is None:
                call.settle(index, Reject("VALIDATION_ERROR", "there is nothing in this row", retryable=False))
            elif isinstance(source, str):
                refused = _refused_url(source)
                if refused is not None:
                    call.settle(index, refused)
                else:
                    downloads.append(_Download(call, index, source, host_of(source)))
        with self._changed:
            for download in downloads:
                self._waiting.setdefault(download.host, deque()).append(download)
            self._changed.notify_all()

    # The one thread that begins downloads.

    def _begin_downloads(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting or self._granted)
                self._changed.wait_for(lambda: self._closing or self._may_begin(), _ASK_AGAIN_S)
                if self._closing:
                    return
                ready = self._take_ready()
                needs = self._needs() if self._asks_now() else None
            self._begin(ready)
            if needs is not None:
                self._ask(needs)

    def _may_begin(self) -> bool:
        """Whether something waits whose host has a place, or has not been asked about."""
        return any(host not in self._granted or self._granted[host] > self._busy[host] for host in self._waiting)

    def _asks_now(self) -> bool:
        unknown = any(host not in self._granted for host in self._waiting)
        return unknown or time.monotonic() - self._asked_s >= _ASK_AGAIN_S

    def _needs(self) -> dict[str, Need]:
        """Of each host that is or was wanted: who wants it no more says so."""
        hosts = {*self._waiting, *self._busy, *self._granted}
        waiting = {host: len(self._waiting.get(host, ())) for host in hosts}
        return {host: Need(self._busy[host] + waiting[host], self._busy[host]) for host in hosts}

    def _ask(self, needs: dict[str, Need]) -> None:
        self._asked_s = time.monotonic()
        try:
            granted = self._hosts.ask(needs)
        except Exception:
            # Whoever shares the places out is not there for a moment: what was granted holds on.
            logger.exception("nobody says how many downloads each host may have")
            return
        with self._changed:
            self._granted = {host: places for host, places in granted.items() if needs[host].wanted}

    def _take_ready(self) -> list[_Download]:
        ready = []
        for host, waiting in list(self._waiting.items()):
            count = max(0, min(len(waiting), self._granted.get(host, 0) - self._busy[host]))
            ready += [waiting.popleft() for _ in range(count)]
            self._busy[host] += count
            if not waiting:
                del self._waiting[host]
        return ready

    def _begin(self, downloads: Sequence[_Download]) -> None:
        deadline = Deadline.after(self._settings.image_download_timeout_s + _MAX_WAIT_S)
        jobs = [ImageJob(download.url, deadline, owner=download) for download in downloads]
        if jobs:
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
        for job in jobs:
            image: _Download | _SentFile = job.owner
            if not self._goes_again(image, job.error):
                image.call.settle(image.index, _reject(job.error) if job.pixels is None else job.pixels)
        self._images.release(jobs)
        self._give_places_back([job.owner for job in jobs])

    def _goes_again(self, image: _Download | _SentFile, error: ServiceError | None) -> bool:
        if isinstance(image, _SentFile) or not isinstance(error, _OF_NO_IMAGE) or image.tries >= _MAX_TRIES:
            return False
        image.tries += 1
        with self._changed:
            self._waiting.setdefault(image.host, deque()).append(image)
        return True

    def _give_places_back(self, images: Sequence[_Download | _SentFile]) -> None:
        with self._changed:
            self._busy.subtract(image.host for image in images if isinstance(image, _Download))
            self._busy = +self._busy
            self._changed.notify_all()
        for image in images:
            if isinstance(image, _SentFile):
                image.group.one_less()


def _reject(error: ServiceError | None) -> Reject:
    known = error or InternalError()
    return Reject(known.code, known.message, known.retryable)


def _refused_url(url: str) -> Reject | None:
    """By the limits of a request."""
    if 0 < len(url) <= MAX_URL_CHARACTERS:
        return None
    message = f"a URL has 1 to {MAX_URL_CHARACTERS} characters"
    return Reject("VALIDATION_ERROR", message, retryable=False)
