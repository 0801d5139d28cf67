"""Image processes: real ones, over a real server, and with a decoder that hangs, crashes and dawdles."""

import base64
import errno
import gc
import hashlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from core import metrics
from core.byte_budget import ByteBudget
from core.deadline import Cancellation, Deadline
from core.errors import (
    DeadlineExceeded,
    DownloadError,
    InternalError,
    InvalidImage,
    NotReady,
    StartError,
    UrlNotAllowed,
)
from core.images.content import SentImages, SentLimits
from core.images.decoding.pixels import PixelDecoder
from core.images.job import ImageJob
from core.images.messages import Garbled
from core.images.pool import ImageProcesses, Undecoded
from core.images.process import PROGRAM, Exit, ImageProcess
from core.images.settings import child_settings
from core.metrics import Distribution
from core.settings import load_settings
from models.shapes import draw, single
from tests.core.images.asking_child import GO, starts
from tests.core.images.scripted_child import BUG, CRASH, PANIC, SLOW, SPIN, STUCK, WAIT
from tools.testbed.image_server import Gate, ImageServer, image_server
from tools.testbed.pictures import encoded

SOON_S = 60.0
# Whoever asks when it should not does so at once.
TOO_MANY_WITHIN_S = 2.0
# Of starts in a row, where there are few processes.
MOST_DEAD = 8
SIZE_PX = 32
SECRET = "secret-of-the-service"
OWN_PRIORITY = os.getpriority(os.PRIO_PROCESS, 0)
LOWEST_PRIORITY = min(OWN_PRIORITY + 1, 19)
SCRIPTED = "tests.core.images.scripted_child"
ASKING = "tests.core.images.asking_child"
MISSING = "tests.core.images.no_such_program"
SETTINGS = {"EMBEDDING_HMAC_SECRET": SECRET, "DOWNLOAD_ALLOW_HOSTS": "127.0.0.1", "LOG_LEVEL": "ERROR"}


@pytest.fixture(autouse=True)
def lowest_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little enough to be seen: at the real one a slow image gets nothing where others never rest."""
    monkeypatch.setattr("core.images.process._LOWEST_PRIORITY", LOWEST_PRIORITY)


class Collector:
    """Grants every decode at once, and keeps what has ended."""

    def __init__(self) -> None:
        self.pool: ImageProcesses | None = None
        self.delayed_jobs: list[ImageJob] = []
        self.slow: list[bool] = []
        # Where it is held up: the first to be told so waits there.
        self.at_delayed: Gate | None = None
        self.at_ended: Gate | None = None
        self.fetched_jobs: list[ImageJob] = []
        self._ended: list[ImageJob] = []
        self._changed = threading.Condition()

    def fetched(self, jobs: Sequence[ImageJob]) -> None:
        assert self.pool is not None
        self.fetched_jobs += jobs
        for job in jobs:
            self.pool.decode(job)

    def ended(self, jobs: Sequence[ImageJob]) -> None:
        gate, self.at_ended = self.at_ended, None
        if gate is not None:
            gate.pass_through()
        with self._changed:
            self._ended += jobs
            self._changed.notify_all()

    def delayed(self, jobs: Sequence[ImageJob]) -> None:
        gate, self.at_delayed = self.at_delayed, None
        if gate is not None:
            gate.pass_through()
        self.slow += [job.slow for job in jobs]
        self.delayed_jobs += jobs

    def wait_for(self, jobs: Sequence[ImageJob]) -> None:
        """Until each of them has ended, and once only."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(jobs) <= set(self._ended), SOON_S), self._ended
        assert len(self._ended) == len(set(self._ended))


@contextmanager
def pool(
    *, processes: int = 2, budget_s: float = 60.0, program: str = PROGRAM, in_turns: bool = False, **settings: str
) -> Iterator[tuple[ImageProcesses, Collector]]:
    collector = Collector()
    read = load_settings({**SETTINGS, **settings})
    target = ImageProcesses(
        child_settings(read, SIZE_PX, processes=processes, in_turns=in_turns),
        collector,
        processes=processes,
        budget_s=budget_s,
        program=program,
    )
    collector.pool = target
    target.start()
    try:
        target.wait_until_ready()
        yield target, collector
    finally:
        target.close()


@pytest.fixture
def images() -> Iterator[ImageServer]:
    with image_server() as server:
        yield server


def jobs_of(urls: Sequence[str], deadline: Deadline | None = None) -> list[ImageJob]:
    return [ImageJob(url, deadline or Deadline.after(SOON_S)) for url in urls]


def greys(jobs: Sequence[ImageJob]) -> list[int | type]:
    """What became of each: its value, or the kind of its error."""
    return [type(job.error) if job.pixels is None else int(job.pixels[0, 0, 0]) for job in jobs]


@pytest.mark.parametrize("in_turns", [pytest.param(False, id="at once"), pytest.param(True, id="in turns")])
def test_pixels_are_those_of_the_decoder(images: ImageServer, *, in_turns: bool) -> None:
    """What comes back through the shared memory is what decoding here gives; each error stays at its image."""
    pictures = [encoded(draw(single(colour, "circle"), 100), "PNG") for colour in ("red", "green", "blue")]
    urls = [images.add(f"/{number}.png", data) for number, data in enumerate(pictures)]
    others = [images.base_url + "/none", images.add("/broken", b"no image"), "http://10.0.0.1/x.png"]
    with pool(in_turns=in_turns) as (target, collector):
        jobs = jobs_of([*urls, *others])
        target.begin(jobs, at_once=8)
        collector.wait_for(jobs)
        decoder = PixelDecoder(SIZE_PX, 1_000_000)
        expected = [decoder.decode(data) for data in pictures]

        for job, pixels in zip(jobs, expected, strict=False):
            assert job.pixels is not None
            np.testing.assert_array_equal(pixels, job.pixels)
            assert job.download_ms > 0
            assert job.decode_ms > 0
        assert [DownloadError, InvalidImage, UrlNotAllowed] == [type(job.error) for job in jobs[3:]]
        assert in_turns == bool(collector.fetched_jobs)
        target.release(jobs)


@pytest.mark.parametrize("most", [1, 3])
def test_downloads_of_a_request_are_bounded_over_all_processes(images: ImageServer, most: int) -> None:
    """However many take part in it, and however its bound is shared out."""
    data = encoded(draw(single("red", "circle"), 40), "PNG")
    arrivals = [images.add_gated(f"/{number}.png", data) for number in range(16)]
    with pool(processes=4) as (target, collector):
        jobs = jobs_of([url for url, _ in arrivals])
        target.begin(jobs, at_once=most)
        until_s = time.monotonic() + TOO_MANY_WITHIN_S
        while images.most_at_once <= most and time.monotonic() < until_s:
            time.sleep(0.05)
        for _, gate in arrivals:
            gate.open()
        collector.wait_for(jobs)
        target.release(jobs)

    assert most == images.most_at_once


def test_limit_on_pixels_is_ours_alone(images: ImageServer) -> None:
    """Pillow refuses 200 megapixels by itself, unless the process has said that it should not."""
    url = images.add("/large.png", encoded(Image.new("1", (10_000, 20_000)), "PNG"))
    with pool(MAX_IMAGE_PIXELS="200000000") as (target, collector):
        [job] = jobs = jobs_of([url])
        target.begin(jobs, at_once=1)
        collector.wait_for(jobs)

        assert [0] == greys([job])
        target.release(jobs)


def test_slots_are_used_again(images: ImageServer) -> None:
    """Far more images than an arena has slots, as long as each request gives its own back."""
    url = images.add("/7", b"7")
    with pool(processes=1, program=SCRIPTED, MAX_QUEUED_ITEMS="2") as (target, collector):
        for _ in range(20):
            jobs = jobs_of([url] * 4)
            target.begin(jobs, at_once=4)
            collector.wait_for(jobs)
            target.release(jobs)

            assert [7, 7, 7, 7] == greys(jobs)


def test_killed_process_loses_no_image(images: ImageServer) -> None:
    """Somebody kills one process after the other while they work: every image arrives, each in its place."""
    urls = [images.add(f"/{number}", str(number).encode()) for number in range(100)]
    with pool(processes=2, program=SCRIPTED) as (target, collector):
        for number in range(6):
            jobs = jobs_of(urls)
            target.begin(jobs, at_once=8)
            os.kill(target.pids[number % 2], signal.SIGKILL)
            collector.wait_for(jobs)

            assert list(range(100)) == greys(jobs)
            target.release(jobs)
            target.wait_until_ready()


@contextmanager
def sent_jobs(contents: Sequence[bytes], urls: Sequence[str] = ()) -> Iterator[list[ImageJob]]:
    """Images of one request, those that were sent first; their bytes go with the block, as with a request."""
    with closing(SentImages(SentLimits(1_000_000, ByteBudget(100_000_000)))) as images:
        sent = [images.take(base64.b64encode(data).decode()) for data in contents]
        images.seal()
        deadline = Deadline.after(SOON_S)
        jobs = [ImageJob("", deadline, image.content, sha256="known") for image in sent]
        yield [*jobs, *jobs_of(urls, deadline)]


@pytest.mark.parametrize("in_turns", [pytest.param(False, id="at once"), pytest.param(True, id="in turns")])
def test_images_that_were_sent_are_decoded_like_others(images: ImageServer, *, in_turns: bool) -> None:
    """Bit for bit the pixels of the same file downloaded, beside it in one request; what is no image is refused."""
    picture = encoded(draw(single("red", "circle"), 100), "PNG")
    with (
        pool(in_turns=in_turns) as (target, collector),
        sent_jobs([picture, b"no image"], [images.add("/red.png", picture)]) as jobs,
    ):
        target.begin(jobs, at_once=8)
        collector.wait_for(jobs)
        sent, broken, downloaded = jobs

        assert sent.pixels is not None
        assert downloaded.pixels is not None
        np.testing.assert_array_equal(downloaded.pixels, sent.pixels)
        assert isinstance(broken.error, InvalidImage)
        assert 0.0 == sent.download_ms
        assert ("known", hashlib.sha256(picture).hexdigest()) == (sent.sha256, downloaded.sha256)
        target.release(jobs)


def test_killed_process_loses_no_image_that_was_sent() -> None:
    """The bytes are here until the image has ended: they are sent again to another process."""
    contents = [str(number).encode() for number in range(100)]
    killed: set[int] = set()
    with pool(processes=2, program=SCRIPTED) as (target, collector):
        for number in range(6):
            killed.add(pid := target.pids[number % 2])
            with sent_jobs(contents) as jobs:
                target.begin(jobs, at_once=8)
                os.kill(pid, signal.SIGKILL)
                collector.wait_for(jobs)

                assert list(range(100)) == greys(jobs)
                target.release(jobs)
            _wait_until(lambda: 2 == len(set(target.pids) - killed))
            target.wait_until_ready()


def test_image_that_was_sent_and_will_take_long_is_decoded_apart() -> None:
    """By its head, as after a download, and from the same bytes."""
    large = encoded(Image.new("RGB", (3000, 3000), "red"), "PNG")
    with pool(processes=1) as (target, collector), sent_jobs([large]) as jobs:
        target.begin(jobs, at_once=2)
        collector.wait_for(jobs)

        assert 2 == len(target.pids)
        assert jobs[0].pixels is not None
        assert [255, 0, 0] == jobs[0].pixels[:, 5, 5].tolist()
        target.release(jobs)


def test_no_descriptor_is_left_behind() -> None:
    """After 200 requests with images that were sent, ended and given up ones, here and in the image process."""
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        [pid] = target.pids
        for number in range(200):
            with sent_jobs([b"1", b"2"]) as jobs:
                target.begin(jobs, at_once=8)
                assert 1 <= files_of_sent_images(os.getpid())
                if number % 2:
                    collector.wait_for(jobs)
                target.release(jobs)
        _wait_until(lambda: not target._processes[0].tickets)

        assert [0, 0] == [files_of_sent_images(process) for process in (os.getpid(), pid)]


def files_of_sent_images(pid: int) -> int:
    """How many are open in a process."""
    links = [os.path.realpath(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return len([link for link in links if "sent-images" in link])


@pytest.mark.parametrize(
    ("in_turns", "counted"), [pytest.param(False, 5, id="at once"), pytest.param(True, 0, id="in turns")]
)
def test_what_waits_for_a_decoder_is_counted(
    images: ImageServer, tmp_path: Path, *, in_turns: bool, counted: int
) -> None:
    """With about the time that it takes, once a decode has been seen; what waits for a turn is counted elsewhere."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    waiting = images.add("/waits", WAIT + os.fsencode(pipe))
    others = [images.add(f"/behind-{number}", str(number).encode()) for number in range(5)]
    seen_s = []
    with pool(processes=1, program=SCRIPTED, in_turns=in_turns) as (target, collector):
        arena = target._processes[0].arena
        for _ in range(2):
            first, behind = jobs_of([waiting]), jobs_of(others)
            target.begin(first, at_once=8)
            _wait_until(lambda: arena.decoding)
            target.begin(behind, at_once=8)
            _wait_until(lambda: arena.waiting == len(others))
            assert counted == target.undecoded.images
            seen_s.append(target.undecoded.seconds)
            pipe.write_bytes(b"")
            collector.wait_for([*first, *behind])
            assert 0 == target.undecoded.images

    assert 0.0 == seen_s[0]
    assert (seen_s[1] > 0.0) is not in_turns


def test_slow_image_says_nothing_of_what_waits(images: ImageServer) -> None:
    """Neither of how long others take, nor of those that were with it and have begun again elsewhere."""
    spins, slow = images.add("/spins", SPIN), images.add("/slow", SLOW + b"3")
    urls = [images.add(f"/quick-{number}", b"1") for number in range(20)]
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        quick = jobs_of(urls)
        target.begin(quick, at_once=8)
        collector.wait_for(quick)
        usual_s = dict(target._usual_decode_s)
        assert usual_s[False] > 0.0 == usual_s[True]

        ends = jobs_of([slow])
        target.begin(ends, at_once=1)
        collector.wait_for(ends)
        assert ([3], [True]) == (greys(ends), collector.slow)
        assert usual_s == target._usual_decode_s

        target.wait_until_ready()
        alone = next(one for one in target._processes if not one.detached)
        left_alone, others = jobs_of([spins]), jobs_of([images.add("/other", b"2")])
        target.begin(left_alone, at_once=1)
        _wait_until(lambda: alone.arena.decoding)
        target.begin(others, at_once=1)
        _wait_until(lambda: alone.arena.waiting)
        collector.wait_for(others)
        assert (alone.detached, Undecoded(0, 0.0)) == (True, target.undecoded)
        target.release([*quick, *ends, *left_alone, *others])


def test_decode_over_its_budget_costs_that_image_alone(images: ImageServer) -> None:
    """It is told which budget; what else was in that process begins again elsewhere."""
    good = [images.add(f"/{number}", str(number).encode()) for number in range(20)]
    bad = images.add("/bad", SPIN)
    with pool(processes=1, budget_s=1.0, program=SCRIPTED) as (target, collector):
        before = target.pids
        jobs = jobs_of([bad, *good])
        target.begin(jobs, at_once=8)
        collector.wait_for(jobs)

        assert list(range(20)) == greys(jobs[1:])
        assert isinstance(jobs[0].error, InvalidImage)
        assert "decoding the image takes more than 1 seconds of processor time" == jobs[0].error.message
        target.wait_until_ready()
        assert not set(before) & set(target.pids)
        assert {"time": 1} == exits_of(target)


def exits_of(target: ImageProcesses) -> dict[str, float | Distribution]:
    """How many processes have ended, by why."""
    exits = {one.labels[0]: one.value for one in target.readings() if one.metric is metrics.IMAGE_PROCESS_EXITS}
    return {reason: count for reason, count in exits.items() if count}


def test_process_that_somebody_else_kills_is_told_from_one_that_crashes(images: ImageServer) -> None:
    """By its signal: the kernel kills when memory runs out; another process takes its place and is counted as one."""
    with pool(processes=1, program=SCRIPTED) as (target, _collector):
        os.kill(target.pids[0], signal.SIGKILL)
        _wait_until(lambda: exits_of(target))
        target.wait_until_ready()

        assert {"killed": 1} == exits_of(target)
        assert [1] == [one.value for one in target.readings() if one.metric is metrics.IMAGE_PROCESSES]


def test_image_that_will_take_long_is_decoded_apart(images: ImageServer) -> None:
    """By a process that gives way to all others, which is started for the first one and kept for the next."""
    large = encoded(Image.new("RGB", (3000, 3000), "red"), "PNG")
    small = encoded(draw(single("red", "circle"), 100), "PNG")
    urls = [images.add("/large.png", large), images.add("/small.png", small)]
    with pool(processes=1) as (target, collector):
        [quick] = target.pids
        for _ in range(2):
            jobs = jobs_of(urls)
            target.begin(jobs, at_once=2)
            collector.wait_for(jobs)

            assert [None, None] == [job.error for job in jobs]
            assert jobs[0].pixels is not None
            assert [255, 0, 0] == jobs[0].pixels[:, 5, 5].tolist()
            target.release(jobs)
        [slow] = set(target.pids) - {quick}

        assert (OWN_PRIORITY, LOWEST_PRIORITY) == (psutil.Process(quick).nice(), psutil.Process(slow).nice())


def test_process_for_slow_images_that_does_not_start_is_replaced(images: ImageServer) -> None:
    """Those that wait for it are not lost, and need no further one to come."""
    url = images.add("/large.png", encoded(Image.new("RGB", (3000, 3000), "red"), "PNG"))
    with starts(SOON_S) as asking, pool(processes=1, program=ASKING) as (target, collector):
        jobs = jobs_of([url])
        target.begin(jobs, at_once=1)
        first, _ = asking.accept()
        first.close()
        second, _ = asking.accept()
        with second:
            second.sendall(GO)
        collector.wait_for(jobs)

        assert jobs[0].pixels is not None
        assert [255, 0, 0] == jobs[0].pixels[:, 5, 5].tolist()
        assert {"start": 1} == exits_of(target)
        target.release(jobs)


def test_process_for_slow_images_that_nobody_waits_for_is_not_replaced(images: ImageServer) -> None:
    """It is started again with the next slow image."""
    url = images.add("/large.png", encoded(Image.new("RGB", (3000, 3000), "red"), "PNG"))
    with starts(SOON_S) as asking, pool(processes=1, program=ASKING) as (target, _collector):
        jobs = jobs_of([url])
        target.begin(jobs, at_once=1)
        first, _ = asking.accept()
        target.release(jobs)
        first.close()
        _wait_until(lambda: exits_of(target))

        assert [False] == [process.slow for process in target._processes]


def lacks(patch: pytest.MonkeyPatch, what: str, times: int, *, slow: bool) -> list[str]:
    """So many starts of image processes for slow or other images fail for want of something; returns those that did."""
    failed: list[str] = []
    owner, name = {
        "descriptors": (ImageProcess, "__init__"),
        "threads": (threading.Thread, "start"),
        "processes": (ImageProcess, "_spawn"),
    }[what]
    method: Callable[..., None] = getattr(owner, name)

    def fail_or_do(target: Any, *given: object, **named: object) -> None:  # noqa: ANN401
        process = getattr(getattr(target, "_target", None), "__self__", target)
        is_wanted = isinstance(process, ImageProcess) and {**vars(process), **named}["slow"] is slow
        if is_wanted and len(failed) < times:
            failed.append(what)
            raise RuntimeError("can't start new thread") if what == "threads" else OSError(errno.EAGAIN, "nothing left")
        method(target, *given, **named)

    patch.setattr(owner, name, fail_or_do)
    return failed


@pytest.mark.parametrize("what", ["descriptors", "threads", "processes"])
def test_start_that_cannot_begin_is_tried_again(
    images: ImageServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What was in the process before, and what comes meanwhile, waits for it."""
    held, gate = images.add_gated("/in-it", b"1")
    other = images.add("/meanwhile", b"2")
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        failed = lacks(monkeypatch, what, 3, slow=False)
        jobs = jobs_of([held, other])
        target.begin(jobs[:1], at_once=1)
        gate.wait_for_request()
        os.kill(target.pids[0], signal.SIGKILL)
        _wait_until(lambda: failed)
        gate.open()
        target.begin(jobs[1:], at_once=1)
        collector.wait_for(jobs)

        assert [1, 2] == greys(jobs)
        assert ([what] * 3, True) == (failed, target.healthy)


@pytest.mark.parametrize("what", ["descriptors", "threads", "processes"])
def test_start_for_slow_images_that_cannot_begin_is_tried_again(
    images: ImageServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The process for the others does not notice."""
    url = images.add("/large.png", encoded(Image.new("RGB", (3000, 3000), "red"), "PNG"))
    with pool(processes=1) as (target, collector):
        before = target.pids
        failed = lacks(monkeypatch, what, 2, slow=True)
        jobs = jobs_of([url])
        target.begin(jobs, at_once=1)
        collector.wait_for(jobs)

        assert [None] == [job.error for job in jobs]
        assert [what] * 2 == failed
        assert before == target.pids[:1]
        target.release(jobs)


def test_slow_images_whose_processes_cannot_start_are_refused_alone(
    images: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many starts that died; everything else goes on, and so do slow images once they can."""
    url = images.add("/large.png", encoded(Image.new("RGB", (3000, 3000), "red"), "PNG"))
    small = images.add("/small.png", encoded(draw(single("red", "circle"), 100), "PNG"))
    monkeypatch.setattr("core.images.starts._MOST_DELAY_S", 0.01)
    with pool(processes=1) as (target, collector):
        before = target.pids
        failed = lacks(monkeypatch, "processes", MOST_DEAD, slow=True)
        refused, later = jobs_of([url]), jobs_of([small, url])
        target.begin(refused, at_once=1)
        collector.wait_for(refused)
        assert ([NotReady], MOST_DEAD, True) == ([type(refused[0].error)], len(failed), target.healthy)

        target.begin(later, at_once=2)
        collector.wait_for(later)
        assert [None, None] == [job.error for job in later]
        assert before == target.pids[:1]
        target.release(later)


def test_having_given_up_is_for_good(images: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when one ends that has been ready before, and was left alone with a slow image."""
    monkeypatch.setattr("core.images.starts._MOST_DELAY_S", 0.01)
    slow = images.add("/spin", SPIN)
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        [alone] = target.pids
        failed = lacks(monkeypatch, "processes", 10 * MOST_DEAD, slow=False)
        first, after = jobs_of([slow]), jobs_of([images.add("/1", b"1")])
        target.begin(first, at_once=1)
        _wait_until(lambda: not target.healthy)
        os.kill(alone, signal.SIGKILL)
        _wait_until(lambda: not target.pids)
        target.begin(after, at_once=1)
        collector.wait_for(after)

        assert [NotReady] == greys(after)
        assert (MOST_DEAD, False) == (len(failed), target.healthy)


def test_many_that_die_in_one_moment_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once is once."""
    monkeypatch.setattr("core.images.starts._MOST_DELAY_S", 0.05)
    with pool(processes=MOST_DEAD, program=SCRIPTED) as (target, collector):
        failed = lacks(monkeypatch, "threads", MOST_DEAD, slow=False)
        for pid in target.pids:
            os.kill(pid, signal.SIGKILL)
        _wait_until(lambda: len(failed) == MOST_DEAD)
        with sent_jobs([b"1"]) as jobs:
            target.begin(jobs, at_once=1)
            collector.wait_for(jobs)
            assert ([1], True) == (greys(jobs), target.healthy)
            target.release(jobs)


def test_no_descriptor_of_a_failed_start_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However far it came."""
    # Captured tracebacks would keep what the frames in them hold.
    caplog.set_level(logging.CRITICAL + 1, "core.images.pool")
    with pool(processes=1, program=SCRIPTED) as (target, _collector):
        before = arenas_here()
        for what in ("threads", "processes"):
            with monkeypatch.context() as patch:
                failed = lacks(patch, what, 3, slow=False)
                os.kill(target.pids[0], signal.SIGKILL)
                _wait_until(lambda: len(failed) == 3 and any(one.ready for one in target._processes))  # noqa: B023

        assert before == arenas_here()


def arenas_here() -> int:
    """Descriptors of this process that are memory for pixels, of which each mapping has one of its own."""
    gc.collect()
    links = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
    return len([link for link in links if "memfd:images" in link])


def let_all_go(asking: socket.socket, ended: threading.Event) -> None:
    asking.settimeout(0.1)
    while not ended.is_set():
        # Nobody asks, or it is one that is being killed.
        with suppress(OSError):
            connection, _ = asking.accept()
            with connection:
                connection.sendall(GO)


def test_process_that_hangs_at_its_start_is_replaced(images: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is that dies there."""
    url = images.add("/large.png", encoded(Image.new("RGB", (3000, 3000), "red"), "PNG"))
    with starts(SOON_S) as asking, pool(processes=1, program=ASKING) as (target, collector):
        jobs = jobs_of([url])
        with monkeypatch.context() as patch:
            target.begin(jobs, at_once=1)
            hanging, _ = asking.accept()
            patch.setattr("core.images.process.START_WITHIN_S", 0.0)
            _wait_until(lambda: exits_of(target))
        hanging.close()
        going = threading.Thread(target=let_all_go, args=(asking, ended := threading.Event()))
        going.start()
        collector.wait_for(jobs)
        ended.set()
        going.join()

        assert [None] == [job.error for job in jobs]
        assert {"start"} == set(exits_of(target))
        target.release(jobs)


def test_slow_image_holds_nobody_up(images: ImageServer) -> None:
    """Its process is left to it; the others are done elsewhere before it is, and it ends well all the same."""
    good = [images.add(f"/{number}", str(number).encode()) for number in range(5)]
    slow = images.add("/slow", SLOW + b"9")
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        slow_jobs, quick_jobs = jobs_of([slow]), jobs_of(good)
        target.begin(slow_jobs, at_once=1)
        target.begin(quick_jobs, at_once=8)
        collector.wait_for(quick_jobs)
        _wait_until(lambda: slow_jobs[0] in collector.delayed_jobs)
        collector.wait_for(slow_jobs)

        assert [9, *range(5)] == greys([*slow_jobs, *quick_jobs])
        target.release(slow_jobs)
        _wait_until(lambda: exits_of(target))
        assert {"finished": 1} == exits_of(target)


def test_slow_image_gives_way(images: ImageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process has the lowest priority, in the service's own session: between sessions priorities count nothing."""
    monkeypatch.undo()
    spin = images.add("/spin", SPIN)
    with pool(processes=1, budget_s=1000.0, program=SCRIPTED) as (target, collector):
        [pid] = target.pids
        jobs = jobs_of([spin])
        target.begin(jobs, at_once=1)
        _wait_until(lambda: jobs[0] in collector.delayed_jobs)

        assert {19} == {os.getpriority(os.PRIO_PROCESS, int(each)) for each in os.listdir(f"/proc/{pid}/task")}
        assert os.getsid(pid) == os.getsid(0)
        assert os.getpgid(pid) == pid
        target.release(jobs)


def test_slow_image_whose_process_is_killed_begins_again(images: ImageServer) -> None:
    """Elsewhere, and is not called slow for that: what comes of it then may be another file."""
    spin = images.add("/spin", SPIN)
    with pool(processes=1, budget_s=1000.0, program=SCRIPTED) as (target, collector):
        [pid] = target.pids
        jobs = jobs_of([spin])
        target.begin(jobs, at_once=1)
        _wait_until(lambda: collector.delayed_jobs)
        os.kill(pid, signal.SIGKILL)
        _wait_until(lambda: len(collector.delayed_jobs) > 1)

        assert [True, False] == collector.slow[:2]
        target.release(jobs)


def test_slow_images_are_bounded(images: ImageServer) -> None:
    """At most as many as there are processes dawdle; the first of too many is given up, and may be retried."""
    slow = images.add("/spin", SPIN)
    with pool(processes=1, budget_s=1000.0, program=SCRIPTED) as (target, collector):
        first, second = jobs_of([slow]), jobs_of([slow])
        target.begin(first, at_once=1)
        _wait_until(lambda: first[0] in collector.delayed_jobs)
        target.begin(second, at_once=1)
        collector.wait_for(first)

        assert first[0].error is not None
        assert first[0].error.retryable
        assert second[0].error is None
        assert {"crowded": 1} == exits_of(target)
        target.release(second)


def test_crashing_image_is_blamed_after_the_second_time(images: ImageServer) -> None:
    """A decoder that crashes costs the image that makes it crash; whatever else was there is done again."""
    good = [images.add(f"/{number}", str(number).encode()) for number in range(10)]
    bad = images.add("/bad", CRASH)
    with pool(processes=2, program=SCRIPTED) as (target, collector):
        jobs = jobs_of([*good[:5], bad, *good[5:]])
        target.begin(jobs, at_once=8)
        collector.wait_for(jobs)

        assert [0, 1, 2, 3, 4, InvalidImage, 5, 6, 7, 8, 9] == greys(jobs)
        # Its images have their verdict a moment before the process is counted.
        _wait_until(lambda: exits_of(target))
        assert {"crash"} == exits_of(target).keys()


@pytest.mark.parametrize("kind", [pytest.param(BUG, id="exception"), pytest.param(PANIC, id="panic of a library")])
def test_bug_of_ours_costs_one_image(images: ImageServer, kind: bytes) -> None:
    """Nothing else of its request, and no process."""
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        before = target.pids
        jobs = jobs_of([images.add("/bug", kind), images.add("/1", b"1")])
        target.begin(jobs, at_once=2)
        collector.wait_for(jobs)

        assert [InternalError, 1] == greys(jobs)
        assert before == target.pids


def test_released_images_end_at_once(images: ImageServer) -> None:
    """Nobody waits: the downloads end although their server never answers, and their slots are free again."""
    url, gate = images.add_gated("/never", b"1")
    cancellation = Cancellation()
    with pool(processes=1, program=SCRIPTED, MAX_QUEUED_ITEMS="1") as (target, collector):
        jobs = jobs_of([url], Deadline.after(SOON_S, cancellation))
        target.begin(jobs, at_once=1)
        gate.wait_for_request()
        target.release(jobs)
        _wait_until(lambda: not target._processes[0].tickets)
        later = jobs_of([images.add("/2", b"2")] * 2)
        target.begin(later, at_once=2)
        collector.wait_for(later)

        assert [2, 2] == greys(later)
        assert jobs[0] not in collector._ended


def test_nothing_begins_again_before_the_listener_knows(images: ImageServer) -> None:
    """What is fetched then would be taken back with what was fetched before."""
    url, served = images.add_gated("/7", b"7")
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        gate = collector.at_delayed = Gate()
        jobs, given_up = jobs_of([url]), jobs_of([url])
        for each in (jobs, given_up):
            target.begin(each, at_once=1)
            served.wait_for_request()
        os.kill(target.pids[0], signal.SIGKILL)
        gate.wait_for_request()
        target.wait_until_ready()
        begun = list(target._processes[0].tickets)
        target.release(given_up)
        gate.open()
        served.open()
        collector.wait_for(jobs)

        assert [] == begun
        assert [7] == greys(jobs)
        assert [] == list(target._processes[0].tickets)


def test_what_is_given_up_before_its_process_knows_of_it_is_forgotten_there() -> None:
    """It waits for no turn that nobody gives it: its slot, its place and the file of what was sent are free again."""
    # Of three images one has no slot, and is told as ended before the process is told of the others.
    with (
        pool(processes=1, program=SCRIPTED, in_turns=True, MAX_QUEUED_ITEMS="1") as (target, collector),
        sent_jobs([b"1", b"2", b"3"]) as jobs,
    ):
        [process] = target._processes
        gate = collector.at_ended = Gate()
        beginning = threading.Thread(target=target.begin, args=(jobs,), kwargs={"at_once": 8})
        beginning.start()
        gate.wait_for_request()
        target.release(jobs)
        gate.open()
        beginning.join()
        _wait_until(lambda: not process.tickets)
        later = jobs[:2]
        target.begin(later, at_once=8)
        collector.wait_for(later)

        assert [1, 2] == greys(later)
        target.release(later)
        assert process.pid is not None
        assert 0 == files_of_sent_images(process.pid)


def test_process_that_is_left_alone_before_it_knows_of_others_ends(images: ImageServer) -> None:
    """With its slow image: what it is told of afterwards has begun again elsewhere."""
    slow, served = images.add_gated("/slow", SLOW + b"9")
    with (
        pool(processes=1, program=SCRIPTED, in_turns=True, MAX_QUEUED_ITEMS="1") as (target, collector),
        sent_jobs([b"1", b"2"]) as jobs,
    ):
        slow_jobs = jobs_of([slow])
        target.begin(slow_jobs, at_once=1)
        gate = collector.at_ended = Gate()
        beginning = threading.Thread(target=target.begin, args=(jobs,), kwargs={"at_once": 8})
        beginning.start()
        gate.wait_for_request()
        served.open()
        _wait_until(lambda: slow_jobs[0] in collector.delayed_jobs)
        collector.wait_for(jobs[:1])
        gate.open()
        beginning.join()
        collector.wait_for([*slow_jobs, *jobs])
        _wait_until(lambda: exits_of(target))

        assert {"finished": 1} == exits_of(target)
        target.release([*slow_jobs, *jobs])


@pytest.mark.parametrize("ends", [pytest.param("late", id="its time is over"), pytest.param("gone", id="given up")])
def test_what_begins_again_stays_with_its_request(images: ImageServer, ends: str) -> None:
    """Two requests lose their process: that one of them ends afterwards is nothing to the other."""
    urls = ["/short", "/long"]
    (short_url, short_gate), (long_url, long_gate) = (images.add_gated(url, b"7") for url in urls)
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        short, long = jobs_of([short_url], Deadline.after(3.0 if ends == "late" else SOON_S)), jobs_of([long_url])
        for jobs, gate in ((short, short_gate), (long, long_gate)):
            target.begin(jobs, at_once=1)
            gate.wait_for_request()
        os.kill(target.pids[0], signal.SIGKILL)
        long_gate.wait_for_request()
        if ends == "late":
            collector.wait_for(short)
        else:
            target.release(short)
        _wait_until(lambda: len(target._processes[0].tickets) == 1)
        long_gate.open()
        collector.wait_for(long)

        assert [7] == greys(long)


def test_process_that_has_lost_a_thread_is_replaced(images: ImageServer) -> None:
    """One that hears nothing any more ends, instead of being given work for ever."""
    url, gate = images.add_gated("/later", b"3")
    with pool(processes=1, program=SCRIPTED, IMAGE_DOWNLOAD_TIMEOUT_S="1000") as (target, collector):
        before = target.pids
        jobs = jobs_of([url])
        target.begin(jobs, at_once=1)
        gate.wait_for_request()
        target._processes[0].send(["work", STUCK])
        _wait_until(lambda: target.pids and before != target.pids)
        gate.open()
        collector.wait_for(jobs)

        assert [3] == greys(jobs)


@pytest.mark.parametrize("cache_bytes", [pytest.param("1", id="no hash"), pytest.param("0", id="one nobody wants")])
def test_process_that_says_another_hash_than_it_should_is_not_believed(images: ImageServer, cache_bytes: str) -> None:
    """Files without a hash would all be one."""
    url, gate = images.add_gated("/later", b"3")
    sha256 = "" if cache_bytes == "1" else "0" * 64
    with pool(processes=1, program=SCRIPTED, CACHE_BYTES=cache_bytes) as (target, _):
        jobs = jobs_of([url])
        target.begin(jobs, at_once=1)
        gate.wait_for_request()
        [process] = target._processes
        [job_id] = process.tickets
        with pytest.raises(Garbled):
            target.heard(process, ["fetched", [job_id, 1.0, 0.0, sha256]])
        target.release(jobs)
        gate.open()


def test_verdict_is_for_the_image_that_it_was_about(images: ImageServer) -> None:
    """When the next image is being decoded by the time the process ends, that one is tried again."""
    spin = images.add("/spin", SPIN)
    with pool(processes=1, budget_s=1.0, program=SCRIPTED) as (target, collector):
        other, next_one = jobs_of([images.add("/0", b"0")]), jobs_of([spin])
        target.begin(other, at_once=1)
        collector.wait_for(other)
        target.begin(next_one, at_once=1)
        process = target._processes[0]
        _wait_until(lambda: process.arena.decoding is not None)
        [being_decoded] = process.tickets
        process.end(being_decoded - 1, InvalidImage("about the one before"), Exit.TIME)
        _wait_until(lambda: next_one[0] in collector.delayed_jobs)

        assert next_one[0].error is None
        target.release(next_one)


def test_deadline_ends_what_waits_for_a_server(images: ImageServer) -> None:
    """The time that is left goes along, and is over there as it is here."""
    url, gate = images.add_gated("/never", b"1")
    with pool(processes=1, program=SCRIPTED) as (target, collector):
        within_s = 0.2
        # Until the time was long enough to ask the server in it.
        while not gate.request_came():
            jobs = jobs_of([url], Deadline.after(within_s))
            target.begin(jobs, at_once=1)
            collector.wait_for(jobs)
            assert [DeadlineExceeded] == greys(jobs)
            within_s *= 2


def test_waiting_hosts_leave_room_for_others(images: ImageServer) -> None:
    """Many requests whose server does not answer hold many places, and never those of the next request."""
    never, gate = images.add_gated("/never", b"1")
    quick = images.add("/2", b"2")
    with pool(processes=1, program=SCRIPTED, MAX_CONCURRENT_REQUESTS="40") as (target, collector):
        waiting = [jobs_of([never] * 16) for _ in range(39)]
        for jobs in waiting:
            target.begin(jobs, at_once=8)
        for _ in range(39):
            gate.wait_for_request()
        later = jobs_of([quick])
        target.begin(later, at_once=8)
        collector.wait_for(later)

        assert [2] == greys(later)
        for jobs in waiting:
            target.release(jobs)


def test_resolver_options_of_the_operator_reach_image_processes() -> None:
    """How long a name that hangs is waited for is said there, and holds where names are looked up."""
    os.environ["RES_OPTIONS"] = "timeout:2 attempts:2"
    try:
        with pool(processes=1) as (target, _):
            [pid] = target.pids
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    finally:
        del os.environ["RES_OPTIONS"]

    assert b"RES_OPTIONS=timeout:2 attempts:2" in environment


def test_image_process_knows_no_secret_and_no_model() -> None:
    """Neither its environment nor its memory holds the service's secrets, and no torch is mapped into it."""
    os.environ["RUNPOD_API_KEY"] = SECRET
    try:
        with pool(processes=1) as (target, _):
            [pid] = target.pids
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            maps = Path(f"/proc/{pid}/maps").read_text()
            found = _memory_holds(pid, SECRET.encode())
    finally:
        del os.environ["RUNPOD_API_KEY"]

    assert SECRET.encode() not in environment
    assert b"RUNPOD" not in environment
    assert not found
    for library in ("torch", "openvino", "safetensors", "tokenizers"):
        assert library not in maps


def test_image_process_ends_with_its_parent() -> None:
    """Also when that has no time for goodbyes."""
    program = (
        "import sys, time; from tests.core.images.test_pool import pool\n"
        "with pool(processes=2) as (target, _): print(*target.pids, flush=True); time.sleep(1000)"
    )
    import subprocess
    import sys

    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    _, alive = psutil.wait_procs(children, SOON_S)

    assert 2 == len(children)
    assert [] == alive


def test_program_that_does_not_start_is_a_start_error() -> None:
    """With one line, and not a service that waits for ever."""
    with pytest.raises(StartError, match="image process"), pool(program=MISSING):
        pass


def test_when_no_process_starts_whoever_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many in a row none is started any more: at once, then and later, and not when their time is over."""
    monkeypatch.setattr("core.images.starts._MOST_DELAY_S", 0.05)
    collector = Collector()
    settings = child_settings(load_settings(SETTINGS), SIZE_PX, processes=8, in_turns=False)
    target = ImageProcesses(settings, collector, processes=8, budget_s=60.0, program=MISSING)
    before, after = jobs_of(["http://127.0.0.1/1"] * 2), jobs_of(["http://127.0.0.1/1"])
    target.begin(before, at_once=2)
    with closing(target):
        target.start()
        collector.wait_for(before)
        target.begin(after, at_once=1)
        collector.wait_for(after)

        assert [NotReady] * 3 == greys([*before, *after])
        assert not target.healthy


def _wait_until(condition: object) -> None:
    until_s = time.monotonic() + SOON_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until_s
        time.sleep(0.01)


def _memory_holds(pid: int, text: bytes) -> bool:
    """Look through all that is mapped and readable."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            where, permissions, *_rest = line.split()
            if not permissions.startswith("r") or "[v" in line:
                continue
            begin, end = (int(part, 16) for part in where.split("-"))
            memory.seek(begin)
            try:
                if text in memory.read(end - begin):
                    return True
            except OSError:
                continue
    return False
