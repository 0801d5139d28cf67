"""The program of an image process: downloads many images at once and decodes one at a time.

It is started afresh, with nothing of the service but what its first message says: no secret, no model, no torch. It
ends with the service, whatever becomes of that. Whatever strangers host is handled here and nowhere else.
"""

import ctypes
import hashlib
import logging
import logging.config
import os
import queue
import resource
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
import simplejpeg  # type: ignore[import-untyped]

from core.byte_budget import ByteBudget
from core.deadline import Cancellation, Deadline
from core.errors import DeadlineExceeded, InternalError, ServiceError
from core.images.arena import Arena
from core.images.decoding.effort import expected_decode_s
from core.images.decoding.pixels import PixelDecoder
from core.images.decoding.strict_decoding import prepare_decoders
from core.images.downloads import LENT_PLACES, Downloads
from core.images.fairness import Download
from core.images.fetch.allowlist import AllowList
from core.images.fetch.fetcher import Fetcher, FetchLimits
from core.images.fetch.urls import host_of
from core.images.job import Pixels
from core.images.messages import (
    DECODE,
    ENDED,
    FETCHED,
    FORGET,
    READY,
    SLOW,
    WORK,
    ChildSettings,
    DescriptorInbox,
    describe,
    frame,
)
from core.images.work import STACK_BYTES, Part, Task, or_end_process
from core.process.descriptors import raise_limit_of_descriptors
from core.process.logs import logging_config

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1

# Decoded once before anything else: whatever the libraries set up on first use is there then, or known to be missing.
_FIRST_PICTURE = (480, 640, 3)


# A URL, or where in the file that comes along the bytes are: offset and size.
Source = str | list[int]

# Raises an `ImageError` for what is no image that is taken.
Decode = Callable[[bytes], Pixels]


class Child:
    """Ties downloads, the one decoder and the socket together; each on threads of its own."""

    def __init__(
        self, sock: socket.socket, arena: Arena, settings: ChildSettings, *, fetch: Callable[..., bytes], decode: Decode
    ) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._arena = arena
        self._in_turns = settings.in_turns
        self._hashes = settings.hashes
        self._slow_s = settings.slow_s
        self._decode_bytes = decode
        self._downloads = Downloads(
            fetch,
            ByteBudget(settings.max_downloaded_bytes),
            threads=settings.max_requests + LENT_PLACES,
            fetched=self._fetched,
            failed=self._failed,
        )
        self._descriptors: deque[int] = deque()
        # What was sent is looked at here, and not where messages are read: a batch of it is 160 megabytes.
        self._sent = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._parts: dict[int, Part] = {}
        self._waiting_for_turn: dict[int, Task] = {}
        self._waiting = 0
        # The oldest request first: its parts have the smaller numbers.
        self._to_decode: queue.PriorityQueue[tuple[int, int, Task]] = queue.PriorityQueue()

    def serve(self, inbox: DescriptorInbox) -> NoReturn:
        """Until the service closes the socket, or is gone."""
        self._descriptors = inbox.descriptors
        threading.Thread(target=or_end_process, args=(self._decode_all,), name="decode", daemon=True).start()
        self._decode_bytes(simplejpeg.encode_jpeg(np.zeros(_FIRST_PICTURE, dtype=np.uint8)))
        self._send([READY])
        or_end_process(self._listen, inbox)
        os._exit(0)

    def _listen(self, inbox: DescriptorInbox) -> None:
        with suppress(EOFError, OSError):
            while True:
                for kind, *content in inbox.receive():
                    self._handle(kind, content)

    def _handle(self, kind: str, content: list[Any]) -> None:
        if kind == WORK:
            self._begin(*content)
        elif kind == DECODE:
            self._decode_now(*content)
        elif kind == FORGET:
            self._forget(*content)

    def _begin(self, number: int, at_once: int, timeout_ms: float, images: list[tuple[int, int, Source]]) -> None:
        cancellation = Cancellation()
        part = Part(number, Deadline.after(timeout_ms / 1000, cancellation), cancellation, at_once, len(images))
        if any(not isinstance(source, str) for *_, source in images):
            part.descriptor = self._descriptors.popleft()
        self._parts[number] = part
        tasks = [_task(part, *image) for image in images]
        self._downloads.add([task for task in tasks if task.sent is None])
        for task in tasks:
            if task.sent is not None:
                self._sent.submit(or_end_process, self._look_at_sent, task)

    def _look_at_sent(self, task: Task) -> None:
        if task.part.deadline.expired:
            self._failed(task, DeadlineExceeded())
            return
        task.read_sent()
        expected_s = expected_decode_s(task.data)
        # Until it is decoded it need not be held twice.
        task.data = b""
        self._arrived(task, expected_s)

    def _decode_now(self, job_id: int) -> None:
        with self._lock:
            task = self._waiting_for_turn.pop(job_id, None)
        if task is not None:
            self._queue(task)

    def _forget(self, number: int) -> None:
        """Nobody waits for this part any more: what has not begun ends at once, downloads within a second."""
        part = self._parts.get(number)
        if part is None:
            return
        part.cancellation.cancel()
        with self._lock:
            over = [task for task in self._waiting_for_turn.values() if task.part is part]
            for task in over:
                del self._waiting_for_turn[task.job_id]
        for task in over:
            self._failed(task, DeadlineExceeded())

    def _fetched(self, task: Task) -> None:
        if self._hashes:
            task.sha256 = hashlib.sha256(task.data).hexdigest()
        self._arrived(task, expected_decode_s(task.data))

    def _arrived(self, task: Task, expected_s: float) -> None:
        if expected_s > self._slow_s:
            self._hand_back(task)
            return
        if not self._in_turns:
            self._queue(task)
            return
        with self._lock:
            # Or else it would wait for a turn that nobody gives it.
            is_given_up = task.part.cancellation.cancelled
            if not is_given_up:
                self._waiting_for_turn[task.job_id] = task
        if is_given_up:
            self._failed(task, DeadlineExceeded())
            return
        self._send([FETCHED, _report(task)])

    def _hand_back(self, task: Task) -> None:
        """It is for a process where nobody waits behind it, and no longer of this part."""
        self._forget_bytes(task)
        part = task.part
        with self._lock:
            part.left -= 1
            reports = self._due_reports(part)
        self._send([SLOW, task.job_id])
        if reports:
            self._send([ENDED, *reports])

    def _queue(self, task: Task) -> None:
        self._count_waiting(1)
        self._to_decode.put((task.part.number, task.job_id, task))

    def _count_waiting(self, more: int) -> None:
        with self._lock:
            self._waiting += more
            self._arena.note_waiting(self._waiting)

    def _failed(self, task: Task, error: ServiceError) -> None:
        self._report(task, [task.job_id, *describe(error)])

    def _decode_all(self) -> None:
        while True:
            self._decode_next()

    def _decode_next(self) -> None:
        *_, task = self._to_decode.get()
        self._count_waiting(-1)
        began_s = time.monotonic()
        error = self._decode(task)
        if error is not None:
            self._failed(task, error)
            return
        decode_ms = (time.monotonic() - began_s) * 1000
        self._report(task, _report(task, began_s, decode_ms))

    def _decode(self, task: Task) -> ServiceError | None:
        if task.part.deadline.expired:
            return DeadlineExceeded()
        task.read_sent()
        self._arena.note_decoding(task.job_id, time.process_time_ns())
        try:
            self._arena.slots[task.slot] = self._decode_bytes(task.data)
        except ServiceError as error:
            return error
        except BaseException:
            # Not Exception: a bug in a library that is written in Rust is a panic, which is none.
            logger.exception("an image could not be decoded")
            return InternalError()
        finally:
            self._arena.note_idle()
        return None

    def _report(self, task: Task, report: list[Any]) -> None:
        self._forget_bytes(task)
        part = task.part
        with self._lock:
            part.reports.append(report)
            part.left -= 1
            reports = self._due_reports(part)
        if reports:
            self._send([ENDED, *reports])

    def _due_reports(self, part: Part) -> list[list[Any]]:
        """What is to be told of a part now, with the lock held: with the last image, or in turns with each."""
        if part.left == 0:
            del self._parts[part.number]
            if part.descriptor is not None:
                os.close(part.descriptor)
        elif not self._in_turns:
            return []
        reports, part.reports = part.reports, []
        return reports

    def _forget_bytes(self, task: Task) -> None:
        task.held.close()
        task.data = b""

    def _send(self, message: list[Any]) -> None:
        data = frame(message)
        with self._sending, suppress(OSError):
            # The reader sees the end of the socket, and ends the process.
            self._sock.sendall(data)


def _report(task: Task, decode_began_s: float = 0.0, decode_ms: float = 0.0) -> list[Any]:
    download = [task.download_began_s, round(task.download_ms, 3)]
    return [task.job_id, *download, decode_began_s, round(decode_ms, 3), task.sha256]


def _task(part: Part, job_id: int, slot: int, source: Source) -> Task:
    if isinstance(source, str):
        return Task(job_id, source, slot, part, Download(part.number, host_of(source), part.at_once))
    offset, size = source
    return Task(job_id, "", slot, part, Download(part.number, "", part.at_once), (offset, size))


def _end_with(parent_pid: int) -> None:
    """Have the kernel end this process with the thread that has started it, also in the middle of a decode."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def _limit_memory(max_bytes: int) -> None:
    """More than that is a MemoryError of the decoder; and should the machine run out, the kernel takes this process."""
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def real_decode(settings: ChildSettings) -> Decode:
    """What a service's image process decodes with."""
    return PixelDecoder(settings.size_px, settings.max_image_pixels, settings.max_decoder_bytes).decode


def main(arguments: Sequence[str], make_decode: Callable[[ChildSettings], Decode] = real_decode) -> None:
    """Serve the socket that the service has handed over; its first message holds the settings.

    The arguments are the service's process number and the descriptors of the socket and of the arena.
    """
    parent_pid, socket_descriptor, arena_descriptor = map(int, arguments)
    _end_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=socket_descriptor)
    inbox = DescriptorInbox(sock)
    [[fields]] = inbox.receive()
    settings = ChildSettings(**fields)
    logging.config.dictConfig(logging_config(settings.log_level))
    prepare_decoders()
    # At DEBUG it names every chunk of every file.
    logging.getLogger("PIL").setLevel(logging.INFO)
    threading.stack_size(STACK_BYTES)
    arena = Arena(arena_descriptor, size_px=settings.size_px, slots=settings.slots)
    os.close(arena_descriptor)
    _limit_memory(settings.max_memory_bytes)
    # Downloads and requests with images by content take one each.
    raise_limit_of_descriptors()
    limits = FetchLimits(max_bytes=settings.max_image_bytes, timeout_s=settings.download_timeout_s)
    fetcher = Fetcher(limits, AllowList.parse(settings.allow_hosts))
    Child(sock, arena, settings, fetch=fetcher.fetch, decode=make_decode(settings)).serve(inbox)
