"""The way from URLs and texts to vectors, with a real batcher and pools and a scripted rest."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from core.batching.turns import Turns

from core.batching.batcher import Batcher
from core.batching.items import Modality
from core.byte_budget import ByteBudget
from core.deadline import Cancellation, Deadline
from core.embedder import Embedder, ImageMemory, Pools, Wanted
from core.embedding import Embedding
from core.errors import DeadlineExceeded, DownloadError, InternalError, InvalidImage, Overloaded

DIM = 4
SOON_S = 30.0
PIXEL_BYTES = 10


class DirectionEngine:
    """Image payloads are numbers: n becomes the vector (n, 0, 0, n). Texts become their length."""

    name, device, dtype = "scripted", "cpu", "float32"
    out_of_memory: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def prepare_thread(self) -> None:
        pass

    def encode_images(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.batch_sizes.append(len(pixels))
        rows = np.zeros((len(pixels), DIM), dtype=np.float32)
        rows[:, 0] = rows[:, -1] = pixels
        return rows

    def encode_texts(self, token_ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.full((len(token_ids), DIM), token_ids.shape[1], dtype=np.float32)


def fetch(url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes:
    """The URL is the content; `404` in it is a download that fails, `bug` an error nobody foresaw."""
    if "404" in url:
        raise DownloadError
    if "bug" in url:
        raise ZeroDivisionError
    if deadline.expired:
        raise DeadlineExceeded
    reserve(len(url))
    return url.encode()


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    if b"broken" in data:
        raise InvalidImage
    return np.asarray(int(data), dtype=np.uint8)


def tokenize(text: str) -> tuple[npt.NDArray[np.int64], bool]:
    return np.zeros(min(len(text), 5), dtype=np.int64), len(text) > 5


@contextmanager
def embedder(
    engine: DirectionEngine,
    *,
    fetcher: Callable[..., bytes] = fetch,
    concurrency: int = 8,
    threads: int = 16,
    max_bytes: int = 1_000_000,
    turns: Turns | None = None,
) -> Iterator[Embedder]:
    stack = {Modality.IMAGE: np.stack, Modality.TEXT: np.stack}
    batcher = Batcher([engine], stack, dim=DIM, max_batch=32, max_items=100, turns=turns)
    pools = Pools(ThreadPoolExecutor(threads), ThreadPoolExecutor(2))
    try:
        yield Embedder(
            fetch=fetcher,
            decode=decode,
            tokenize=tokenize,
            batcher=batcher,
            pools=pools,
            memory=ImageMemory(ByteBudget(max_bytes), pixel_bytes=PIXEL_BYTES),
            concurrency=concurrency,
            turns=turns,
        )
    finally:
        pools.close()
        batcher.close()


def wanted(urls: Sequence[str], normalize: Sequence[bool] | None = None) -> list[Wanted]:
    flags = normalize if normalize is not None else [True] * len(urls)
    return [Wanted(url, flag) for url, flag in zip(urls, flags, strict=True)]


def test_one_result_per_image_in_order_with_errors_in_place() -> None:
    """A failed download, a broken image and a bug of ours each cost only their own item."""
    with embedder(DirectionEngine()) as target:
        results = target.embed_images(wanted(["1", "404", "2", "broken", "bug", "3"]), Deadline.after(SOON_S))

    assert [Embedding, DownloadError, Embedding, InvalidImage, InternalError, Embedding] == [
        type(result) for result in results
    ]


def test_no_pass_waits_for_an_image_that_is_over() -> None:
    """However a decode ends, also one that never began, the device counts on it no longer."""
    never = 1000.0
    turns = Turns(shared=True, patience_s=never)
    with embedder(DirectionEngine(), turns=turns) as target:
        target.embed_images(wanted(["1", "broken", "404", "2"]), Deadline.after(SOON_S))
        target.embed_images(wanted(["3"]), Deadline.after(0.0))
        passing = threading.Thread(target=lambda: turns.computing(lambda: False).__enter__(), daemon=True)
        passing.start()
        passing.join(SOON_S)
        still_waits = passing.is_alive()

    assert not still_waits


def test_normalize_is_per_item() -> None:
    """Each item's own flag decides, not the first one's."""
    with embedder(DirectionEngine()) as target:
        results = target.embed_images(wanted(["3", "3", "3"], [True, False, True]), Deadline.after(SOON_S))
    norms = [float(np.linalg.norm(result.vector)) for result in results if isinstance(result, Embedding)]

    assert [1.0, np.sqrt(18), 1.0] == pytest.approx(norms)


def test_images_of_a_request_enter_the_model_together() -> None:
    """All downloads first, then one batch: the model sees ten images at once."""
    engine = DirectionEngine()
    with embedder(engine) as target:
        target.embed_images(wanted([str(number) for number in range(1, 11)]), Deadline.after(SOON_S))

    assert [10] == engine.batch_sizes


def test_downloads_of_a_request_are_bounded_and_concurrent() -> None:
    """Exactly `concurrency` downloads run at once, while more are waiting."""
    inside, most = 0, 0
    lock, full = threading.Lock(), threading.Barrier(3)

    def counting_fetch(url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        full.wait(SOON_S)
        with lock:
            inside -= 1
        return fetch(url, deadline=deadline, reserve=reserve)

    with embedder(DirectionEngine(), fetcher=counting_fetch, concurrency=3) as target:
        results = target.embed_images(wanted(["1"] * 9), Deadline.after(SOON_S))

    assert 3 == most
    assert all(isinstance(result, Embedding) for result in results)


def test_all_images_failing_is_a_result_too() -> None:
    """The model is not asked for nothing."""
    engine = DirectionEngine()
    with embedder(engine) as target:
        results = target.embed_images(wanted(["404", "broken"]), Deadline.after(SOON_S))

    assert [DownloadError, InvalidImage] == [type(result) for result in results]
    assert [] == engine.batch_sizes


def test_passed_deadline_is_an_error_per_item() -> None:
    """A request whose time is over gets DEADLINE_EXCEEDED, and the model does not run."""
    engine = DirectionEngine()
    with embedder(engine) as target:
        results = target.embed_images(wanted(["1", "2"]), Deadline.after(0.0))

    assert [DeadlineExceeded, DeadlineExceeded] == [type(result) for result in results]
    assert [] == engine.batch_sizes


def test_text_says_when_it_was_cut() -> None:
    """A long text is embedded cut, and the result tells."""
    with embedder(DirectionEngine()) as target:
        short = target.embed_text("five5", normalize=False, deadline=Deadline.after(SOON_S))
        long = target.embed_text("longer", normalize=True, deadline=Deadline.after(SOON_S))

    assert (False, True) == (short.truncated, long.truncated)
    assert (10.0, 1.0) == pytest.approx((np.linalg.norm(short.vector), np.linalg.norm(long.vector)))


def test_timings_name_every_step() -> None:
    """An image says where its milliseconds went."""
    with embedder(DirectionEngine()) as target:
        [result] = target.embed_images(wanted(["1"]), Deadline.after(SOON_S))

    assert isinstance(result, Embedding)
    assert {"download_ms", "decode_ms", "queue_ms", "inference_ms", "total_ms"} == result.timings.keys()


def test_abandoned_request_begins_no_further_download() -> None:
    """When the caller has gone, what is under way ends and nothing else is begun."""
    cancellation = Cancellation()
    begun: list[str] = []

    def fetch_until_gone(url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes:
        begun.append(url)
        if len(begun) == 2:
            cancellation.cancel()
        return fetch(url, deadline=deadline, reserve=reserve)

    engine = DirectionEngine()
    with embedder(engine, fetcher=fetch_until_gone, concurrency=1) as target:
        results = target.embed_images(wanted(["1", "2", "3", "4"]), Deadline.after(SOON_S, cancellation))

    assert ["1", "2"] == begun
    assert [] == engine.batch_sizes
    assert {DeadlineExceeded} == {type(result) for result in results[1:]}


def test_request_without_a_free_thread_ends_at_its_deadline() -> None:
    """Other requests hold every download thread: this one does not wait for them longer than it may."""
    entered, gate, left = threading.Event(), threading.Event(), threading.Event()

    def gated_fetch(url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes:
        if url == "1":
            entered.set()
            gate.wait(SOON_S / 3)
            left.set()
        return fetch(url, deadline=deadline, reserve=reserve)

    with embedder(DirectionEngine(), fetcher=gated_fetch, threads=1) as target:
        first = threading.Thread(target=target.embed_images, args=(wanted(["1"]), Deadline.after(SOON_S)))
        first.start()
        assert entered.wait(SOON_S)
        [result] = target.embed_images(wanted(["2"]), Deadline.after(0.05))
        was_held = not left.is_set()
        gate.set()
        first.join(SOON_S)

    assert was_held
    assert isinstance(result, DeadlineExceeded)


def test_lanes_without_a_thread_are_not_waited_for() -> None:
    """One thread is enough for a request of two images, if a little slower."""
    with embedder(DirectionEngine(), threads=1) as target:
        results = target.embed_images(wanted(["1", "2"]), Deadline.after(SOON_S))

    assert [Embedding, Embedding] == [type(result) for result in results]


def test_request_whose_pixels_do_not_fit_is_refused_before_any_download() -> None:
    """The bytes of decoded images are held from the start, so that a refusal is immediate."""
    begun: list[str] = []

    def recording_fetch(url: str, *, deadline: Deadline, reserve: Callable[[int], None]) -> bytes:
        begun.append(url)
        return fetch(url, deadline=deadline, reserve=reserve)

    with (
        embedder(DirectionEngine(), fetcher=recording_fetch, max_bytes=3 * PIXEL_BYTES) as target,
        pytest.raises(Overloaded),
    ):
        target.embed_images(wanted(["1"] * 4), Deadline.after(SOON_S))

    assert [] == begun


def test_download_that_does_not_fit_fails_alone_and_gives_its_bytes_back() -> None:
    """Over the limit it is OVERLOADED in its place; afterwards all of the memory is free again."""
    large = "0" * 90 + "7"
    with embedder(DirectionEngine(), max_bytes=100) as target:
        results = target.embed_images(wanted(["5", large]), Deadline.after(SOON_S))
        [alone] = target.embed_images(wanted(["0" * 80 + "9"]), Deadline.after(SOON_S))

    assert [Embedding, Overloaded] == [type(result) for result in results]
    assert isinstance(alone, Embedding)
