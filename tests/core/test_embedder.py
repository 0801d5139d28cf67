"""The way from URLs and texts to vectors: a real scheduler and device over a scripted engine, and scripted images."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.batching.batcher import Batcher
from core.batching.device import Device, Stack
from core.batching.items import Encoded, Group, Item, Modality
from core.batching.scheduler import Limits, Scheduler
from core.byte_budget import ByteBudget
from core.cache import Cache, Counts, Key, Shared
from core.deadline import Cancellation, Deadline
from core.embedder import Arrivals, Embedder, ImageMemory, Tokens, Wanted, WantedText
from core.embedding import Embedding
from core.errors import (
    DeadlineExceeded,
    DownloadError,
    ImageTooLarge,
    InferenceFailed,
    InvalidImage,
    NotReady,
    Overloaded,
    ServiceError,
)
from core.images.content import Content, SentImages, SentLimits
from core.images.job import ImageJob

DIM = 4
SOON_S = 30.0
PIXEL_BYTES = 10
MAX_ITEMS = 100


class Gate:
    """Somebody has `reached` it, and goes on when it is `opened`."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(SOON_S)


class DirectionEngine:
    """Image payloads are numbers: n becomes the vector (n, 0, 0, n), and 0 none at all. Texts become their length."""

    name, device, dtype = "scripted", "cpu", "float32"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self._gate: Gate | None = None

    def hold(self) -> "Gate":
        """Hold the next pass of images."""
        self._gate = Gate()
        return self._gate

    def prepare_thread(self) -> None:
        pass

    def encode_images(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.pass_through()
        self.batch_sizes.append(len(pixels))
        rows = np.zeros((len(pixels), DIM), dtype=np.float32)
        rows[:, 0] = rows[:, -1] = pixels
        return rows

    def encode_texts(self, token_ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.full((len(token_ids), DIM), token_ids.shape[1], dtype=np.float32)


@dataclass
class ScriptedImages:
    """`core.embedder.Images`, of which the URL says what becomes of it: a number is the pixels, `404` and `broken` are
    errors, `never` does not arrive by itself. In turns, it is decoded when the scheduler has granted it.
    """

    in_turns: bool = False
    arrivals: Arrivals | None = None
    begun: list[tuple[list[str], int]] = field(default_factory=list)
    jobs: list[ImageJob] = field(default_factory=list)
    released: list[ImageJob] = field(default_factory=list)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _threads: list[threading.Thread] = field(default_factory=list)
    _gate: "Gate | None" = None

    def begin(self, jobs: Sequence[ImageJob], *, at_once: int) -> None:
        self.begun.append(([job.url for job in jobs], at_once))
        self.jobs += jobs
        self.entered.release()
        thread = threading.Thread(target=self._fetch, args=(jobs,))
        self._threads.append(thread)
        thread.start()

    def release(self, jobs: Iterable[ImageJob]) -> None:
        self.released += jobs

    def decode(self, job: ImageJob) -> None:
        """What the scheduler grants."""
        if job.url == "never":
            return
        if self._gate is None:
            self._end([job])
            return
        gate, self._gate = self._gate, None
        thread = threading.Thread(target=lambda: self._end([job], gate))
        self._threads.append(thread)
        thread.start()

    def hold_decodes(self) -> "Gate":
        """Hold the next one that is granted."""
        self._gate = Gate()
        return self._gate

    def close(self) -> None:
        for thread in self._threads:
            thread.join()

    def _fetch(self, jobs: Sequence[ImageJob]) -> None:
        assert self.arrivals is not None
        arrived = [job for job in jobs if job.url != "never"]
        failed = [job for job in arrived if "404" in job.url]
        self._end(failed)
        fetched = [job for job in arrived if job not in failed]
        for job in fetched:
            if job.content is None:
                job.sha256 = hashlib.sha256(job.url.encode()).hexdigest()
        if self.in_turns:
            self.arrivals.fetched(fetched)
        else:
            self._end(fetched)

    def _end(self, jobs: Sequence[ImageJob], gate: "Gate | None" = None) -> None:
        assert self.arrivals is not None
        if gate is not None:
            gate.pass_through()
        for job in jobs:
            job.error = _error_of(job.url)
            if job.error is None:
                number = int(job.url) if job.content is None else int(_read(job.content))
                job.pixels, job.download_ms, job.decode_ms = np.asarray(number, dtype=np.uint8), 3.0, 2.0
        self.arrivals.ended(jobs)


def _read(content: Content) -> bytes:
    descriptor = content.file.duplicate()
    try:
        return os.pread(descriptor, content.size, content.offset)
    finally:
        os.close(descriptor)


def _error_of(url: str) -> ServiceError | None:
    if "404" in url:
        return DownloadError()
    return InvalidImage() if "broken" in url else None


def stack(jobs: Sequence[ImageJob]) -> npt.NDArray[np.uint8]:
    return np.asarray([job.pixels for job in jobs])


def tokenize(text: str) -> Tokens:
    return Tokens(np.zeros(min(len(text), 5), dtype=np.int64), min(len(text), 5), len(text) > 5)


@dataclass
class Bench:
    """An embedder and what is under it."""

    embedder: Embedder
    scheduler: Scheduler
    batcher: Batcher
    engine: DirectionEngine
    images: ScriptedImages
    budget: ByteBudget

    def embed(
        self, urls: Sequence[str], normalize: Sequence[bool] | None = None, deadline: Deadline | None = None
    ) -> list[Embedding | ServiceError]:
        flags = normalize if normalize is not None else [True] * len(urls)
        wanted = [Wanted(url, flag) for url, flag in zip(urls, flags, strict=True)]
        return self.embedder.embed_images(wanted, deadline or Deadline.after(SOON_S))

    def has_all_places(self) -> bool:
        """Whether a request of the largest size would be taken."""
        self.embed(["1"] * MAX_ITEMS)
        return self.budget.used_bytes == 0


@contextmanager
def bench(*, in_turns: bool = False, max_bytes: int = 1_000_000, cache: Cache | None = None) -> Iterator[Bench]:
    images, engine, budget = ScriptedImages(in_turns), DirectionEngine(), ByteBudget(max_bytes)
    scheduler = Scheduler(
        Limits(max_items=MAX_ITEMS, max_batch=MAX_ITEMS, max_tokens=10_000, max_turn_s=10.0),
        shared=in_turns,
        decoders=2,
        grant=lambda item: images.decode(item.payload),
        # It stands still: no decode grows too old to be waited for.
        clock=lambda: 0.0,
    )
    images.arrivals = Arrivals(scheduler, cache)
    stacks: Mapping[Modality, Stack] = {Modality.IMAGE: stack, Modality.TEXT: np.stack}
    batcher = Batcher(scheduler, [Device(engine, stacks, dim=DIM, max_batch=MAX_ITEMS)])
    embedder = Embedder(
        images=images,
        tokenize=tokenize,
        scheduler=scheduler,
        memory=ImageMemory(budget, PIXEL_BYTES),
        concurrency=8,
        cache=cache,
    )
    try:
        yield Bench(embedder, scheduler, batcher, engine, images, budget)
    finally:
        images.close()
        batcher.close()
        if cache is not None:
            cache.close()


both_ways = pytest.mark.parametrize(
    "in_turns", [pytest.param(False, id="decoded at once"), pytest.param(True, id="decoded in turns")]
)


@both_ways
def test_one_result_per_image_in_order_with_errors_in_place(*, in_turns: bool) -> None:
    """A failed download, a broken image and a useless row each cost only their own item."""
    with bench(in_turns=in_turns) as target:
        results = target.embed(["1", "404", "2", "broken", "0", "3"], [False] * 6)
    found = [int(result.vector[0]) if isinstance(result, Embedding) else type(result) for result in results]

    assert [1, DownloadError, 2, InvalidImage, InferenceFailed, 3] == found


@both_ways
def test_images_of_a_request_enter_the_model_together(*, in_turns: bool) -> None:
    """What can be decoded is decoded first; then the model sees all of them at once."""
    with bench(in_turns=in_turns) as target:
        target.embed([*(str(number) for number in range(1, 11)), "broken", "404"])

        assert [10] == target.engine.batch_sizes


def test_normalize_is_per_item() -> None:
    """Each item's own flag decides, not the first one's."""
    with bench() as target:
        results = target.embed(["3", "3", "3"], [True, False, True])
    norms = [float(np.linalg.norm(result.vector)) for result in results if isinstance(result, Embedding)]

    assert [1.0, np.sqrt(18), 1.0] == pytest.approx(norms)


def test_image_that_was_sent_has_no_download() -> None:
    """Its bytes are handed over, its timings name no download; one that could not be had is an error in its place."""
    with bench() as target, closing(SentImages(SentLimits(10, ByteBudget(100)))) as images:
        sent = [images.take(text) for text in ("NQ==", "no base64", "A" * 16)]
        wanted = [Wanted("7", normalize=False), *(Wanted(image, normalize=False) for image in sent)]
        results = target.embedder.embed_images(wanted, Deadline.after(SOON_S))

        assert [7, 5, InvalidImage, ImageTooLarge] == [
            int(one.vector[0]) if isinstance(one, Embedding) else type(one) for one in results
        ]
        assert [True, False] == ["download_ms" in one.timings for one in results if isinstance(one, Embedding)]
        assert [None, sent[0].content] == [job.content for job in target.images.jobs]


def test_whole_request_is_handed_over_with_its_bound() -> None:
    """The image processes are told once of all its images, and how many of them may be downloaded at once."""
    with bench() as target:
        target.embed(["1", "2", "3"])

        assert [(["1", "2", "3"], 8)] == target.images.begun


def test_all_images_failing_is_a_result_too() -> None:
    """The model is not asked for nothing."""
    with bench() as target:
        results = target.embed(["404", "broken"])

        assert [DownloadError, InvalidImage] == [type(result) for result in results]
        assert [] == target.engine.batch_sizes


def test_passed_deadline_is_an_error_per_item() -> None:
    """A request whose time is over gets DEADLINE_EXCEEDED, also where its images have arrived."""
    with bench() as target:
        results = target.embed(["1", "never"], deadline=Deadline.after(0.0))

        assert [DeadlineExceeded, DeadlineExceeded] == [type(result) for result in results]
        assert [] == target.engine.batch_sizes


def test_image_that_never_comes_costs_no_other() -> None:
    """When the time is over those that have their vector are answered, and the late one is an error."""
    cancellation = Cancellation()
    results: list[Embedding | ServiceError] = []
    with bench() as target:
        deadline = Deadline.after(SOON_S, cancellation)
        asking = threading.Thread(target=lambda: results.extend(target.embed(["1", "never"], deadline=deadline)))
        asking.start()
        assert target.images.entered.acquire(timeout=SOON_S)
        _wait_until(lambda: target.images.jobs[0].owner.outcome is not None)
        cancellation.cancel()
        asking.join(SOON_S)

    assert [Embedding, DeadlineExceeded] == [type(result) for result in results]


def _wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_text_says_when_it_was_cut() -> None:
    """A long text is embedded cut, and the result tells."""
    with bench() as target:
        wanted = [WantedText("five5", normalize=False), WantedText("longer", normalize=True)]
        short, long = target.embedder.embed_texts(wanted, Deadline.after(SOON_S))

    assert isinstance(short, Embedding)
    assert isinstance(long, Embedding)
    assert (False, True) == (short.truncated, long.truncated)
    assert (10.0, 1.0) == pytest.approx((np.linalg.norm(short.vector), np.linalg.norm(long.vector)))


def test_timings_name_every_step() -> None:
    """An image says where its milliseconds went, a text which of them it has; a queue's are never less than none."""
    with bench() as target:
        [image] = target.embed(["1"])
        [text] = target.embedder.embed_texts([WantedText("five5", normalize=True)], Deadline.after(SOON_S))

    assert isinstance(image, Embedding)
    assert isinstance(text, Embedding)
    assert {"download_ms", "decode_ms", "queue_ms", "inference_ms", "total_ms"} == image.timings.keys()
    assert (3.0, 2.0) == (image.timings["download_ms"], image.timings["decode_ms"])
    assert {"queue_ms", "inference_ms", "total_ms"} == text.timings.keys()
    for timings in (image.timings, text.timings):
        assert timings["queue_ms"] >= 0
        assert timings["total_ms"] >= timings["inference_ms"]


@both_ways
def test_abandoned_request_releases_its_images_and_gives_its_places_back(*, in_turns: bool) -> None:
    """When the caller has gone nothing is waited for: images, places and memory are free at once."""
    cancellation = Cancellation()
    results: list[Embedding | ServiceError] = []
    with bench(in_turns=in_turns) as target:
        urls = ["never"] * MAX_ITEMS
        deadline = Deadline.after(SOON_S, cancellation)
        asking = threading.Thread(target=lambda: results.extend(target.embed(urls, deadline=deadline)))
        asking.start()
        assert target.images.entered.acquire(timeout=SOON_S)
        cancellation.cancel()
        asking.join(SOON_S)

        assert {DeadlineExceeded} == {type(result) for result in results}
        assert MAX_ITEMS == len(results) == len(target.images.released)
        assert target.has_all_places()


def test_every_request_releases_its_images() -> None:
    """However they ended, also when they could not even be begun."""
    with bench() as target:
        target.embed(["1", "404", "broken"])
        target.images.begin = _raise  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            target.embed(["2"])

        assert ["1", "404", "broken", "2"] == [job.url for job in target.images.released]
        assert 0 == target.budget.used_bytes


def _raise(*_arguments: object, **_named: object) -> None:
    raise ZeroDivisionError


def test_request_whose_pixels_do_not_fit_is_refused_before_any_download() -> None:
    """The bytes of decoded images are held from the start, so that a refusal is immediate."""
    with bench(max_bytes=3 * PIXEL_BYTES) as target:
        with pytest.raises(Overloaded):
            target.embed(["1"] * 4)

        assert [] == target.images.begun
        assert [Embedding] * 3 == [type(result) for result in target.embed(["1"] * 3)]


def test_request_without_a_place_is_refused_before_any_download() -> None:
    """The scheduler's bound is for images that are still elsewhere, too; a refusal holds nothing."""
    with bench() as target:
        with pytest.raises(Overloaded):
            target.embed(["1"] * (MAX_ITEMS + 1))

        assert [] == target.images.begun
        assert target.has_all_places()


def test_closed_scheduler_takes_nothing() -> None:
    """A device that is lost for good: images and texts are NOT_READY."""
    with bench() as target:
        target.batcher.fail()
        with pytest.raises(NotReady):
            target.embed(["1"])
        with pytest.raises(NotReady):
            target.embedder.embed_texts([WantedText("text", normalize=True)], Deadline.after(SOON_S))

        assert [] == target.images.begun


def a_cache(max_bytes: int = 1_000_000, shared: Shared | None = None) -> Cache:
    return Cache(max_bytes, model="scripted", shared=shared)


class RowsOfAll:
    """A `core.cache.Shared` in memory, and the threads that have looked something up."""

    def __init__(self) -> None:
        self.rows: dict[Key, Encoded] = {}
        self.threads: set[str] = set()

    def find(self, keys: Sequence[Key]) -> Mapping[Key, Encoded]:
        self.threads.add(threading.current_thread().name)
        return {key: self.rows[key] for key in keys if key in self.rows}

    def put(self, key: Key, row: Encoded) -> None:
        self.rows[key] = row


def vectors(results: Sequence[Embedding | ServiceError]) -> list[bytes]:
    """Bit for bit; fails for an error."""
    assert all(isinstance(result, Embedding) for result in results), results
    return [result.vector.tobytes() for result in results if isinstance(result, Embedding)]


def cached(results: Sequence[Embedding | ServiceError]) -> list[bool | type]:
    return [result.cached if isinstance(result, Embedding) else type(result) for result in results]


@both_ways
def test_image_that_comes_again_is_not_embedded_again(*, in_turns: bool) -> None:
    """In another request or in the same one, normalised or not; whoever has it computed says so, and nobody else."""
    cache = a_cache()
    with bench(in_turns=in_turns, cache=cache) as target:
        first = target.embed(["1", "2"], [True, False])
        again = target.embed(["2", "1", "1", "404", "broken"], [False, True, False, True, True])

        assert [2] == target.engine.batch_sizes
    assert [False, False] == cached(first)
    assert [True, True, True, DownloadError, InvalidImage] == cached(again)
    assert vectors(first) == [vectors(again[:2])[1], vectors(again[:2])[0]]
    assert 3 == cache.counts[Modality.IMAGE].hits


@both_ways
def test_image_that_was_sent_is_known_by_its_bytes(*, in_turns: bool) -> None:
    """Also where the same file came from a server before; then it is handed to no image process."""
    with (
        bench(in_turns=in_turns, cache=a_cache()) as target,
        closing(SentImages(SentLimits(10, ByteBudget(100)))) as images,
    ):
        target.embed(["5"])
        wanted = Wanted(images.take("NQ=="), normalize=True)
        [result] = target.embedder.embed_images([wanted], Deadline.after(SOON_S))

        assert [True] == cached([result])
        assert 1 == len(target.images.jobs)


@both_ways
def test_what_another_pod_has_embedded_is_not_embedded_again(*, in_turns: bool) -> None:
    """Texts, images by URL and images by content, bit for bit; the latter are handed to no image process."""
    shared = RowsOfAll()
    text = WantedText("five5", normalize=True)
    with closing(SentImages(SentLimits(10, ByteBudget(100)))) as images:
        wanted = [Wanted("7", normalize=True), Wanted(images.take("NQ=="), normalize=True)]
        with bench(in_turns=in_turns, cache=a_cache(shared=shared)) as one:
            first = one.embedder.embed_images(wanted, Deadline.after(SOON_S))
            first += one.embedder.embed_texts([text], Deadline.after(SOON_S))
        with bench(in_turns=in_turns, cache=a_cache(shared=shared)) as other:
            again = other.embedder.embed_images(wanted, Deadline.after(SOON_S))
            again += other.embedder.embed_texts([text], Deadline.after(SOON_S))

            assert [] == other.engine.batch_sizes
            assert ["7"] == [job.url for job in other.images.jobs]
    assert [False] * 3 == cached(first)
    assert [True] * 3 == cached(again)
    assert vectors(first) == vectors(again)


@both_ways
def test_no_thread_that_reads_of_image_processes_looks_up(*, in_turns: bool) -> None:
    """Other images of that process would wait for the answer: it is asked on a thread of the cache's own."""
    shared = RowsOfAll()
    with bench(in_turns=in_turns, cache=a_cache(shared=shared)) as target:
        target.embed(["1", "2"])

    assert shared.threads
    assert [] == [name for name in shared.threads if not name.startswith("cache-lookup")]


def test_image_that_begins_again_is_not_computed_by_its_lookup() -> None:
    """Its process has ended while it was looked up: what that had fetched is not decoded, what the next one has is."""
    opened, asked = threading.Event(), threading.Event()
    results: list[Embedding | ServiceError] = []

    class Held(RowsOfAll):
        def find(self, keys: Sequence[Key]) -> Mapping[Key, Encoded]:
            if not asked.is_set():
                asked.set()
                assert opened.wait(SOON_S)
            return super().find(keys)

    shared = Held()
    with bench(in_turns=True, cache=a_cache(shared=shared)) as target:
        asking = threading.Thread(target=lambda: results.extend(target.embed(["7"])))
        asking.start()
        assert asked.wait(SOON_S)
        assert target.images.arrivals is not None
        target.images.arrivals.delayed(target.images.jobs)
        before = target.scheduler.waiting_items
        target.images.arrivals.fetched(target.images.jobs)
        asking.join(SOON_S)
        opened.set()

        assert 0 == before
        assert [1] == target.engine.batch_sizes
    assert [False] == cached(results)


in_both_tiers = pytest.mark.parametrize(
    "is_shared", [pytest.param(False, id="in memory"), pytest.param(True, id="with what pods share")]
)


def asks(target: Bench, url: str, deadline: Deadline | None = None) -> "Asked":
    """A request for one image, on a thread of its own; once its image is with the image processes."""
    asked = Asked(target, url, deadline or Deadline.after(SOON_S))
    assert target.images.entered.acquire(timeout=SOON_S)
    asked.job = target.images.jobs[-1]
    return asked


class Asked:
    """`job` is the image on its way."""

    job: ImageJob

    def __init__(self, target: Bench, url: str, deadline: Deadline) -> None:
        self._results: list[Embedding | ServiceError] = []
        self._thread = threading.Thread(target=lambda: self._results.extend(target.embed([url], [False], deadline)))
        self._thread.start()

    def fetches(self, target: Bench, number: str) -> None:
        """Its process says that the image could be decoded: the file of the image at that URL."""
        assert target.images.arrivals is not None
        self.job.sha256 = hashlib.sha256(number.encode()).hexdigest()
        target.images.arrivals.fetched([self.job])

    def ends(self, target: Bench, number: str) -> None:
        """A process has decoded it, that file too."""
        assert target.images.arrivals is not None
        self.job.sha256 = hashlib.sha256(number.encode()).hexdigest()
        self.job.pixels = np.asarray(int(number), dtype=np.uint8)
        target.images.arrivals.ended([self.job])

    def begins_again(self, target: Bench) -> None:
        """Its process has ended."""
        assert target.images.arrivals is not None
        target.images.arrivals.delayed([self.job])

    def number(self) -> int | type:
        """What the answer says that the image was, or the error."""
        self._thread.join(SOON_S)
        [result] = self._results
        return int(result.vector[0]) if isinstance(result, Embedding) else type(result)


def known_number(cache: Cache, number: str) -> int | None:
    """What the cache says of the file of that image."""
    item = Item(Modality.IMAGE, Group(Deadline.after(SOON_S)), None)
    sha256 = hashlib.sha256(number.encode()).hexdigest()
    cache.settle_known([(item, cache.key(Modality.IMAGE, sha256.encode()))])
    return int(item.outcome.vector[0]) if isinstance(item.outcome, Encoded) else None


@in_both_tiers
def test_row_is_kept_for_the_file_that_was_decoded(*, is_shared: bool) -> None:
    """A host gives another file when the image begins again, in a process that announces nothing, for slow ones."""
    shared = RowsOfAll() if is_shared else None
    cache = a_cache(shared=shared)
    with bench(in_turns=True, cache=cache) as target:
        asked = asks(target, "never")
        asked.fetches(target, "1")
        asked.begins_again(target)
        asked.ends(target, "2")

        assert 2 == asked.number()
        assert 1 == target.embed(["1"], [False])[0].vector[0]  # type: ignore[union-attr]
        assert [1, 2] == [known_number(cache, number) for number in ("1", "2")]
    if shared is not None:
        assert {1.0, 2.0} == {float(row.vector[0]) for row in shared.rows.values()}


@in_both_tiers
def test_nobody_waits_for_an_image_that_begins_again(*, is_shared: bool) -> None:
    """Its host may take long, and is not the host of those who ask for the same file: they are embedded, once."""
    cancellation = Cancellation()
    with bench(in_turns=True, cache=a_cache(shared=RowsOfAll() if is_shared else None)) as target:
        first = asks(target, "never", Deadline.after(SOON_S, cancellation))
        first.fetches(target, "7")
        others = [asks(target, "7") for _ in range(3)]
        _wait_until(lambda: all(other.job.claimed for other in others))
        first.begins_again(target)

        assert [7, 7, 7] == [other.number() for other in others]
        assert [1] == target.engine.batch_sizes
        cancellation.cancel()
        assert DeadlineExceeded == first.number()


def test_image_that_is_slow_is_waited_for() -> None:
    """It does not begin again: whoever decoded the same file would be slow too."""
    with bench(in_turns=True, cache=a_cache()) as target:
        first = asks(target, "never")
        first.fetches(target, "7")
        other = asks(target, "7")
        _wait_until(lambda: other.job.claimed)
        first.job.slow = True
        first.begins_again(target)
        first.ends(target, "7")

        assert [7, 7] == [first.number(), other.number()]
        assert [1] == target.engine.batch_sizes
        assert other.job.pixels is None


def test_text_is_known_by_what_the_model_reads() -> None:
    """Two texts with the same tokens are one row; each says by itself whether it was cut."""
    with bench(cache=a_cache()) as target:
        wanted = [WantedText(text, normalize=True) for text in ("longer", "longest", "five5")]
        results = [target.embedder.embed_texts([one], Deadline.after(SOON_S))[0] for one in wanted]

    assert [False, True, True] == cached(results)
    assert 1 == len(set(vectors(results)))
    assert [True, True, False] == [result.truncated for result in results if isinstance(result, Embedding)]


@both_ways
def test_many_who_ask_for_one_image_at_once_have_it_embedded_once(*, in_turns: bool) -> None:
    """A thousand requests of 32 clients: one forward pass of one image, one answer that says it was computed."""
    cache = a_cache()
    with bench(in_turns=in_turns, cache=cache) as target, ThreadPoolExecutor(32) as clients:
        results = list(clients.map(lambda _: target.embed(["7"])[0], range(1000)))

        assert [1] == target.engine.batch_sizes
    assert 1 == len(set(vectors(results)))
    assert 999 == sum(one is True for one in cached(results))
    assert Counts(hits=999, misses=1) == cache.counts[Modality.IMAGE]


@both_ways
def test_who_waits_for_a_request_that_is_given_up_is_embedded_by_itself(*, in_turns: bool) -> None:
    """Nobody is failed, or left waiting, by what becomes of somebody else."""
    cancellation = Cancellation()
    results: dict[str, list[Embedding | ServiceError]] = {}
    with bench(in_turns=in_turns, cache=a_cache()) as target:
        gate = target.images.hold_decodes() if in_turns else target.engine.hold()

        def ask(name: str, deadline: Deadline) -> threading.Thread:
            thread = threading.Thread(target=lambda: results.update({name: target.embed(["7"], deadline=deadline)}))
            thread.start()
            assert target.images.entered.acquire(timeout=SOON_S)
            return thread

        first = ask("first", Deadline.after(SOON_S, cancellation))
        assert gate.reached.wait(SOON_S)
        second = ask("second", Deadline.after(SOON_S))
        _wait_until(lambda: target.images.jobs[-1].claimed)
        cancellation.cancel()
        first.join(SOON_S)
        gate.opened.set()
        second.join(SOON_S)

    assert [DeadlineExceeded] == cached(results["first"])
    assert [False] == cached(results["second"])


def test_request_that_fails_oddly_leaves_nobody_waiting() -> None:
    """Its images are settled, whatever was raised: others may wait for their rows."""
    with bench(cache=a_cache()) as target:
        add_texts, target.scheduler.add_texts = target.scheduler.add_texts, _raise  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            target.embedder.embed_texts([WantedText("text", normalize=True)], Deadline.after(SOON_S))
        target.scheduler.add_texts = add_texts  # type: ignore[method-assign]
        results = target.embedder.embed_texts([WantedText("text", normalize=True)], Deadline.after(SOON_S))

    assert [False] == cached(results)
