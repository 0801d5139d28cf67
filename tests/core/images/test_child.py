"""Inside an image process: which downloads run, what they hold, and in which order what they bring is decoded."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pytest

from core.byte_budget import ByteBudget
from core.deadline import Cancellation, Deadline
from core.errors import DeadlineExceeded, DownloadError, InternalError, Overloaded, ServiceError
from core.images.arena import Arena
from core.images.child import Child
from core.images.downloads import LENT_PLACES, Downloads
from core.images.fairness import Download
from core.images.fetch.addresses import IpAddress
from core.images.fetch.allowlist import AllowList
from core.images.fetch.fetcher import Fetcher, FetchLimits
from core.images.fetch.urls import host_of
from core.images.job import Pixels
from core.images.messages import DECODE, ENDED, FETCHED, FORGET, WORK, ChildSettings, Inbox
from core.images.settings import child_settings
from core.images.work import Part, Task
from core.settings import load_settings
from tests.core.images.fetch.fakes import LOOPBACK, Wires, fetching
from tests.core.images.fetch.servers import answer, says, serve, silent

SOON_S = 30.0
LONG_S = 600.0
SIZE_PX = 2


@dataclass
class ScriptedFetch:
    """Holds every download until it is let through; the URL is the content, `bug` in it an error nobody foresaw."""

    begun: list[str] = field(default_factory=list)
    most: int = 0
    _inside: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _let_through: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self, url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes:
        with self._lock:
            self.begun.append(url)
            self._inside += 1
            self.most = max(self.most, self._inside)
        self._entered.release()
        self._let_through.acquire(timeout=SOON_S)
        with self._lock:
            self._inside -= 1
        if "bug" in url:
            raise ZeroDivisionError
        reserve(len(url))
        return url.encode()

    def wait_for(self, downloads: int) -> None:
        for _ in range(downloads):
            assert self._entered.acquire(timeout=SOON_S)

    def let_through(self, downloads: int) -> None:
        self._let_through.release(downloads)


@dataclass
class Outcomes:
    """What downloads came to, in the order of their ends."""

    fetched: list[Task] = field(default_factory=list)
    failed: dict[str, ServiceError] = field(default_factory=dict)
    _ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def note_fetched(self, task: Task) -> None:
        self.fetched.append(task)
        self._ended.release()

    def note_failed(self, task: Task, error: ServiceError) -> None:
        task.held.close()
        self.failed[task.url] = error
        self._ended.release()

    def wait_for(self, downloads: int) -> None:
        for _ in range(downloads):
            assert self._ended.acquire(timeout=SOON_S)


_numbers = count(1)


def tasks_of(
    urls: list[str], *, at_once: int = 8, cancellation: Cancellation | None = None, time_s: float = SOON_S
) -> list[Task]:
    """The images of one part."""
    number, given_up = next(_numbers), cancellation or Cancellation()
    part = Part(number, Deadline.after(time_s, given_up), given_up, at_once, len(urls))
    return [Task(next(_numbers), url, 0, part, Download(number, host_of(url), at_once)) for url in urls]


def downloads_of(
    fetch: Callable[..., bytes], outcomes: Outcomes, budget: ByteBudget | None = None, *, threads: int = 100
) -> Downloads:
    return Downloads(
        fetch,
        budget or ByteBudget(1_000_000),
        threads=threads,
        fetched=outcomes.note_fetched,
        failed=outcomes.note_failed,
    )


def test_downloads_of_a_part_are_bounded_and_concurrent() -> None:
    """Exactly `at_once` of them run while more are waiting."""
    fetch, outcomes = ScriptedFetch(), Outcomes()
    downloads_of(fetch, outcomes).add(tasks_of([str(number) for number in range(9)], at_once=3))
    for _ in range(3):
        fetch.wait_for(3)
        fetch.let_through(3)
        outcomes.wait_for(3)

    assert 3 == fetch.most
    assert {str(number).encode() for number in range(9)} == {task.data for task in outcomes.fetched}


def test_download_that_does_not_fit_fails_alone_and_gives_its_bytes_back() -> None:
    """Over the budget it is OVERLOADED; what arrived holds its bytes until it is done with."""
    fetch, outcomes, budget = ScriptedFetch(), Outcomes(), ByteBudget(100)
    downloads = downloads_of(fetch, outcomes, budget)
    large = "x" * 101
    downloads.add(tasks_of(["small", large]))
    fetch.let_through(2)
    outcomes.wait_for(2)
    held_bytes = budget.used_bytes
    outcomes.fetched[0].held.close()

    assert [large] == list(outcomes.failed)
    assert isinstance(outcomes.failed[large], Overloaded)
    assert len("small") == held_bytes
    assert 0 == budget.used_bytes


def test_forgotten_part_begins_nothing_more() -> None:
    """What is under way ends in its own time; what waited is over without a connection."""
    fetch, outcomes, cancellation = ScriptedFetch(), Outcomes(), Cancellation()
    downloads_of(fetch, outcomes).add(tasks_of(["1", "2", "3", "4"], at_once=2, cancellation=cancellation))
    fetch.wait_for(2)
    cancellation.cancel()
    fetch.let_through(2)
    outcomes.wait_for(4)

    assert {"1", "2"} == set(fetch.begun)
    assert {"3", "4"} == set(outcomes.failed)
    assert all(isinstance(error, DeadlineExceeded) for error in outcomes.failed.values())


def test_threads_of_abandoned_downloads_are_for_others() -> None:
    """When the client has gone whose images are at a host that answers nothing, the next request's download runs."""
    outcomes, cancellation = Outcomes(), Cancellation()
    limits = FetchLimits(max_bytes=1000, timeout_s=LONG_S)
    with silent() as port, serve(says(answer(b"good"))) as server, fetching(limits=limits) as fetcher:
        downloads = downloads_of(fetcher.fetch, outcomes, threads=2)
        downloads.add(tasks_of([port.url()] * 2, cancellation=cancellation, time_s=LONG_S))
        assert port.wait_for_knocks(SOON_S, 2)
        cancellation.cancel()
        downloads.add(tasks_of([server.url()], time_s=LONG_S))
        outcomes.wait_for(3)

    assert [b"good"] == [task.data for task in outcomes.fetched]


def test_lookups_that_hang_are_no_more_than_their_downloads() -> None:
    """Requests that wait for sixteen silent names each hold what is lent to them; the next request's download runs."""
    outcomes, cancellation, hung, over = Outcomes(), Cancellation(), threading.Semaphore(0), threading.Event()
    limits = FetchLimits(max_bytes=1000, timeout_s=LONG_S)

    def resolve(host: str, _port: int) -> list[IpAddress]:
        if host.startswith("hung"):
            hung.release()
            over.wait(LONG_S)
        return [LOOPBACK]

    requests = [[f"http://hung.n{number}-{image}.test/" for image in range(16)] for number in range(8)]
    with serve(says(answer(b"good"))) as server:
        allow = AllowList(hosts=frozenset({"good.test"}))
        with closing(Fetcher(limits, allow, resolve=resolve, connect=Wires(server.port))) as fetcher:
            downloads = downloads_of(fetcher.fetch, outcomes, threads=len(requests) + LENT_PLACES + 1)
            for urls in requests:
                downloads.add(tasks_of(urls, at_once=16, cancellation=cancellation, time_s=LONG_S))
            try:
                for _ in range(len(requests) + LENT_PLACES):
                    assert hung.acquire(timeout=SOON_S)
                downloads.add(tasks_of(["http://good.test/"]))
                outcomes.wait_for(1)
                ended = [task.data for task in outcomes.fetched]
                cancellation.cancel()
                outcomes.wait_for(16 * len(requests))
            finally:
                cancellation.cancel()
                over.set()

    assert [b"good"] == ended


def test_bug_of_ours_costs_one_download_and_no_place() -> None:
    """As many times as there are threads and more: the next one runs all the same."""
    fetch, outcomes = ScriptedFetch(), Outcomes()
    downloads = downloads_of(fetch, outcomes)
    fetch.let_through(201)
    downloads.add(tasks_of([f"bug {number}" for number in range(200)], at_once=2))
    outcomes.wait_for(200)
    downloads.add(tasks_of(["good"]))
    outcomes.wait_for(1)

    assert {InternalError} == {type(error) for error in outcomes.failed.values()}
    assert ["good"] == [task.url for task in outcomes.fetched]


def digits(data: bytes) -> Pixels:
    """What stands in a file as a number is its grey value."""
    return np.full((3, SIZE_PX, SIZE_PX), int(data), dtype=np.uint8)


def fetch_now(url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes:
    """The URL is the content; `404` in it is a download that fails."""
    if deadline.expired:
        raise DeadlineExceeded
    if "404" in url:
        raise DownloadError
    reserve(len(url))
    return url.encode()


class InnerChild:
    """A child without its process: its decoder is driven by hand, and what it says is read here."""

    def __init__(self, sock: socket.socket, other_end: socket.socket, told: ChildSettings) -> None:
        other_end.settimeout(SOON_S)
        descriptor = Arena.create(size_px=SIZE_PX, slots=told.slots)
        self.arena = Arena(descriptor, size_px=SIZE_PX, slots=told.slots)
        os.close(descriptor)
        self._child = Child(sock, self.arena, told, fetch=fetch_now, decode=digits)
        self._inbox = Inbox(other_end)
        self._unread: list[list[Any]] = []
        self.hashes: dict[int, str] = {}

    def told(self, *message: Any) -> None:  # noqa: ANN401 - the protocol's own
        """A message of the service has come."""
        self._child._handle(message[0], list(message[1:]))

    def sent(self, data: bytes) -> int:
        """The descriptor of a file with `data` has come, ahead of its message."""
        descriptor = os.memfd_create("sent")
        os.write(descriptor, data)
        self._child._descriptors.append(descriptor)
        return descriptor

    def part_that_was_given_up(self) -> Part:
        """Of one image, between its download and its turn."""
        given_up = Cancellation()
        part = Part(1, Deadline.after(SOON_S, given_up), given_up, 8, 1)
        self._child._parts[1] = part
        self.told(FORGET, 1)
        return part

    def arrives(self, task: Task) -> None:
        """Its bytes are there."""
        self._child._fetched(task)

    def decode_next(self) -> None:
        """Wait for an image to decode, and do."""
        self._child._decode_next()

    def wait_for_fetched(self, images: int) -> None:
        """Until so many wait for the decoder."""
        pause = threading.Event()
        while self._child._to_decode.qsize() < images:
            pause.wait(0.001)

    def says(self) -> list[Any]:
        """Its next message."""
        while not self._unread:
            self._unread += self._inbox.receive()
        return self._unread.pop(0)

    def ended(self) -> list[Any]:
        """For each image of its next report the number, and what it came to: None for pixels."""
        kind, *reports = self.says()
        assert kind == ENDED
        self.hashes |= {report[0]: report[-1] for report in reports if not isinstance(report[1], str)}
        return [(report[0], report[1] if isinstance(report[1], str) else None) for report in reports]


@contextmanager
def inner_child(*, in_turns: bool = False, **settings: str) -> Iterator[InnerChild]:
    read = load_settings({"ALLOW_INSECURE_AUTH": "1", **settings})
    sock, other_end = socket.socketpair()
    with sock, other_end:
        yield InnerChild(sock, other_end, child_settings(read, SIZE_PX, processes=1, in_turns=in_turns))


def test_oldest_part_is_decoded_first() -> None:
    """Whichever of them has arrived first: requests are answered in their order."""
    with inner_child() as child:
        for number in (3, 2, 1):
            child.told(WORK, number, 8, 30_000.0, [[10 * number, number, str(number)]])
            child.wait_for_fetched(4 - number)
        ended = []
        for _ in range(3):
            child.decode_next()
            ended += child.ended()

        assert [(10, None), (20, None), (30, None)] == ended
        assert [1, 2, 3] == [int(child.arena.slots[slot, 0, 0, 0]) for slot in (1, 2, 3)]
        assert child.arena.decoding is None


@pytest.mark.parametrize(
    ("cache_bytes", "said"),
    [
        pytest.param("1", [hashlib.sha256(b"5").hexdigest(), ""], id="with a cache"),
        pytest.param("0", ["", ""], id="without"),
    ],
)
def test_file_is_told_by_its_hash(cache_bytes: str, said: list[str]) -> None:
    """Of what was downloaded, where somebody asks for it; what was sent is known where it came from."""
    with inner_child(CACHE_BYTES=cache_bytes) as child:
        child.sent(b"5")
        child.told(WORK, 1, 8, 30_000.0, [[11, 0, "5"], [12, 1, [0, 1]]])
        child.decode_next()
        child.decode_next()
        child.ended()

        assert said == [child.hashes[11], child.hashes[12]]


def test_request_is_reported_as_a_whole() -> None:
    """One message for all images of a part, errors among them."""
    with inner_child() as child:
        child.told(WORK, 1, 8, 30_000.0, [[11, 0, "5"], [12, 1, "404"], [13, 2, "5"]])
        child.decode_next()
        child.decode_next()

        assert [(11, None), (12, "DOWNLOAD_ERROR"), (13, None)] == sorted(child.ended())


@pytest.mark.parametrize(
    ("url", "outcome"), [pytest.param("7".zfill(80), None, id="good"), pytest.param("x" * 80, "INTERNAL", id="broken")]
)
def test_bytes_of_a_download_are_given_back_after_decoding(url: str, outcome: str | None) -> None:
    """Twenty images, one after the other, fit into a budget of two, whatever becomes of them."""
    with inner_child(MAX_IMAGE_SIZE_BYTES="80", MAX_IMAGE_BYTES_IN_FLIGHT="160") as child:
        codes = []
        for number in range(20):
            child.told(WORK, number, 8, 30_000.0, [[number + 1, 0, url]])
            child.decode_next()
            codes += [code for _, code in child.ended()]

    assert [outcome] * 20 == codes


def test_images_that_were_sent_are_read_and_let_go_of() -> None:
    """From the file that came along, beside downloads; it is closed with the part, as its last image is told."""
    with inner_child() as child:
        descriptor = child.sent(b"057")
        child.told(WORK, 1, 8, 30_000.0, [[11, 0, [1, 1]], [12, 1, "9"], [13, 2, [1, 2]], [14, 3, [0, 1]]])
        for _ in range(4):
            child.decode_next()

        assert [(11, None), (12, None), (13, None), (14, None)] == sorted(child.ended())
        assert [5, 9, 57, 0] == [int(child.arena.slots[slot, 0, 0, 0]) for slot in range(4)]
        assert not is_open(descriptor)


def test_images_that_were_sent_take_turns_and_can_be_given_up() -> None:
    """Announced as soon as they are there; given up, they let go of their file at once."""
    with inner_child(in_turns=True) as child:
        descriptor = child.sent(b"67")
        child.told(WORK, 1, 8, 30_000.0, [[11, 0, [0, 1]], [12, 1, [1, 1]]])
        announced = [child.says(), child.says()]
        child.told(DECODE, 12)
        child.decode_next()
        first, open_between = child.ended(), is_open(descriptor)
        child.told(FORGET, 1)

        assert [11, 12] == [report[0] for _, report in announced]
        assert [(12, None)] == first
        assert [(11, "DEADLINE_EXCEEDED")] == child.ended()
        assert (True, False) == (open_between, is_open(descriptor))


def test_image_that_arrives_after_it_was_given_up_waits_for_no_turn() -> None:
    """Nobody would give it one, and its part would never end."""
    with inner_child(in_turns=True) as child:
        part = child.part_that_was_given_up()
        child.arrives(Task(11, "", 0, part, Download(1, "", 8), data=b"1"))

        assert [(11, "DEADLINE_EXCEEDED")] == child.ended()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_turns_are_waited_for() -> None:
    """Where the cores are shared a fetched image is only announced; it is decoded, and reported alone, when told so."""
    with inner_child(in_turns=True) as child:
        child.told(WORK, 1, 8, 30_000.0, [[11, 0, "9"], [12, 1, "9"]])
        announced = [child.says(), child.says()]
        child.told(DECODE, 12)
        child.decode_next()
        first = child.ended()
        # Unknown, or decoded already: nothing to do.
        child.told(DECODE, 12)
        child.told(DECODE, 77)
        child.told(FORGET, 1)

        of_file = hashlib.sha256(b"9").hexdigest()
        assert [(FETCHED, 11, of_file), (FETCHED, 12, of_file)] == sorted(
            (kind, report[0], report[-1]) for kind, report in announced
        )
        assert [(12, None)] == first
        assert [(11, "DEADLINE_EXCEEDED")] == child.ended()


def test_forgotten_image_is_not_decoded() -> None:
    """It stands in the decoder's queue when it is given up: no second is spent on it."""
    with inner_child() as child:
        child.told(WORK, 1, 8, 30_000.0, [[11, 0, "6"]])
        child.wait_for_fetched(1)
        child.told(FORGET, 1)
        child.told(FORGET, 55)
        child.decode_next()

        assert [(11, "DEADLINE_EXCEEDED")] == child.ended()
        assert not child.arena.slots[0].any()
