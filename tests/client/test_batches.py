"""Many images: any split into batches gives one result per item, in order."""

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import numpy as np
import pytest
from clip_embedding_client import Embedding, ImageItem, errors
from hypothesis import given
from hypothesis import strategies as st

from tests.client.scripted import Body, FakeBackend, client_of, success, vector_of
from tests.threads import threads_end


def failed(body: Body) -> list[Body]:
    """The results of a batch in which everything was refused."""
    error = {"code": "INVALID_IMAGE", "message": "m", "retryable": False}
    return [{"request_id": item["request_id"], "error": error} for item in body["items"]]


@given(
    names=st.lists(st.text("abc", min_size=0, max_size=3), max_size=30),
    batch_size=st.integers(1, 7),
    concurrency=st.integers(1, 4),
    attempts=st.integers(1, 3),
)
def test_one_result_per_item_in_order(names: list[str], batch_size: int, concurrency: int, attempts: int) -> None:
    """Whatever fails inside, an item's result is in its place, once, and is its own."""
    flaky: dict[str, int] = {}
    lock = threading.Lock()

    def respond(body: Body) -> Body:
        answer = success(body)
        for item, result in zip(body["items"], answer["results"], strict=True):
            with lock:
                flaky[item["request_id"]] = flaky.get(item["request_id"], 0) + 1
                # The images with a b time out once, those with a c always.
                fails = "c" in item["image_url"] or ("b" in item["image_url"] and flaky[item["request_id"]] == 1)
            if fails:
                del result["embedding"]
                result["error"] = {"code": "DOWNLOAD_TIMEOUT", "message": item["image_url"], "retryable": True}
        return answer

    variables = {
        "CLIP_BATCH_SIZE": str(batch_size),
        "CLIP_CONCURRENT_BATCHES": str(concurrency),
        "CLIP_RETRY_ATTEMPTS": str(attempts),
    }
    backend = FakeBackend(respond=respond)
    results = client_of([backend], **variables).embed_images(names)

    assert len(names) == len(results)
    for name, result in zip(names, results, strict=True):
        if not name:
            assert isinstance(result, errors.ValidationFailed)
        elif "c" in name or ("b" in name and attempts == 1):
            assert isinstance(result, errors.DownloadTimeout)
            assert name == result.message
        else:
            assert isinstance(result, Embedding)
            assert vector_of(name) == result.vector.tolist()
    assert all(len(body["items"]) <= batch_size for body in backend.calls)
    assert max(flaky.values(), default=0) <= attempts


def test_image_that_is_asked_for_twice_is_sent_once() -> None:
    """Once in a batch: a service takes a signature once. Each item has its own id, and a vector that is its own."""
    backend = FakeBackend()
    items = [ImageItem("http://a/1"), ImageItem("http://a/2"), ImageItem("http://a/1"), ImageItem("http://a/3")]
    results = client_of([backend]).embed_images(items)

    assert [["http://a/1", "http://a/2", "http://a/3"]] == [
        [item["image_url"] for item in body["items"]] for body in backend.calls
    ]
    assert [item.request_id for item in items] == [result.request_id for result in results]
    first, _, again, _ = results
    assert isinstance(first, Embedding)
    assert isinstance(again, Embedding)
    assert first.vector.tolist() == again.vector.tolist()
    assert not np.shares_memory(first.vector, again.vector)


def test_image_that_is_asked_for_in_two_ways_is_sent_in_two_batches() -> None:
    """The signature does not cover `normalize`, so both ways have the same one."""
    backend = FakeBackend()
    given = [("http://a/1", True), ("http://a/1", False), ("http://a/2", False)]
    results = client_of([backend]).embed_images([ImageItem(url, normalize=normalize) for url, normalize in given])

    assert [2, 1] == sorted((len(body["items"]) for body in backend.calls), reverse=True)
    assert [True, False, False] == [isinstance(one, Embedding) and one.normalized for one in results]


def test_error_of_an_image_is_that_of_each_item() -> None:
    """With the id of the item, so that a caller finds its own."""
    backend = FakeBackend(respond=lambda body: success(body) | {"results": failed(body)})
    items = [ImageItem("http://a/1"), ImageItem("http://a/1")]
    results = client_of([backend]).embed_images(items)

    assert [errors.InvalidImage] * 2 == [type(result) for result in results]
    assert [item.request_id for item in items] == [result.request_id for result in results]


def test_generator_and_items_of_one_kind_or_the_other() -> None:
    """URLs and items may be mixed, and come from anything that can be gone through once."""

    def items() -> Iterator[str | ImageItem]:
        yield "http://a/1"
        yield ImageItem("http://a/2", request_id="mine", normalize=False)

    backend = FakeBackend()
    first, second = client_of([backend]).embed_images(items())

    assert isinstance(first, Embedding)
    assert isinstance(second, Embedding)
    assert ("mine", True, False) == (second.request_id, first.normalized, second.normalized)
    assert 1 == len(backend.calls)


def test_nothing_to_do() -> None:
    """No items, no requests, no progress."""
    backend, progress = FakeBackend(), list[tuple[int, int | None]]()

    assert [] == client_of([backend]).embed_images([], on_progress=lambda *done: progress.append(done))
    assert ([], []) == (backend.calls, progress)


def test_progress() -> None:
    """It is told in the caller's thread after each result, of items that were refused here too, up to the total."""
    told: list[tuple[int, int | None, int]] = []
    urls = ["", *[f"http://a/{number}" for number in range(10)]]

    def tell(done: int, total: int | None) -> None:
        told.append((done, total, threading.get_ident()))

    client_of([FakeBackend()], CLIP_BATCH_SIZE="4").embed_images(urls, on_progress=tell)

    assert [(done, 11, threading.get_ident()) for done in range(1, 12)] == told


def test_batches_at_once_are_bounded() -> None:
    """Never more than CLIP_CONCURRENT_BATCHES requests at a time, and as many as that where there is work."""
    lock, running, most = threading.Lock(), [0], [0]
    both = threading.Barrier(2, timeout=30)

    def respond(body: Body) -> Body:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        both.wait()
        with lock:
            running[0] -= 1
        return success(body)

    variables = {"CLIP_BATCH_SIZE": "1", "CLIP_CONCURRENT_BATCHES": "2"}
    client_of([FakeBackend(respond=respond)], **variables).embed_images([f"http://a/{n}" for n in range(8)])

    assert 2 == most[0]


def test_a_batch_that_fails_takes_no_other_with_it() -> None:
    """The items of a failed batch have its error; the others have their vectors."""

    def respond(body: Body) -> Body:
        if any("7" in item["image_url"] for item in body["items"]):
            raise errors.ServerFailed("internal error")
        return success(body)

    variables = {"CLIP_BATCH_SIZE": "3", "CLIP_RETRY_ATTEMPTS": "2"}
    backend = FakeBackend(respond=respond)
    results = client_of([backend], **variables).embed_images([f"http://a/{n}" for n in range(9)])

    failed = [position for position, result in enumerate(results) if isinstance(result, errors.ServerFailed)]
    assert [6, 7, 8] == failed
    assert 2 + 2 == len(backend.calls)


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(lambda body: success(body) | {"results": success(body)["results"][::-1]}, id="another order"),
        pytest.param(lambda body: success(body) | {"results": success(body)["results"][1:]}, id="one too few"),
        pytest.param(lambda body: success(body) | {"results": [success(body)["results"][0]] * 2}, id="one twice"),
        pytest.param(lambda body: success(body) | {"results": [{"error": 1}] * 2}, id="no ids"),
        pytest.param(lambda body: success(body) | {"results": failed(body)[::-1]}, id="errors in another order"),
        pytest.param(
            lambda body: success(body) | {"results": [result | {"error": "no"} for result in failed(body)]},
            id="error that is no error",
        ),
    ],
)
def test_results_that_do_not_line_up(respond: object) -> None:
    """A vector is never given to another image than its own."""
    backend = FakeBackend(respond=respond)  # type: ignore[arg-type]
    results = client_of([backend]).embed_images(["http://a/1", "http://a/2"])

    assert [errors.WrongResponse] * 2 == [type(result) for result in results]


def test_caller_that_breaks_off() -> None:
    """An error in `on_progress` reaches the caller, and what has not begun never does."""
    backend = FakeBackend()

    def break_off(_done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    variables = {"CLIP_BATCH_SIZE": "1", "CLIP_CONCURRENT_BATCHES": "1"}
    # Also while the error is kept, with all that its traceback holds.
    with threads_end("clip-batch"), pytest.raises(KeyboardInterrupt) as caught:
        client_of([backend], **variables).embed_images(["http://a/"] * 5000, on_progress=break_off)

    assert len(backend.calls) < 5000
    assert caught.value.__traceback__ is not None


def test_what_was_begun_is_given_back_by_closing() -> None:
    """Who needs no more results than so many closes the iterator, and nothing goes on behind it."""
    backend = FakeBackend()
    variables = {"CLIP_BATCH_SIZE": "1", "CLIP_CONCURRENT_BATCHES": "2"}
    client = client_of([backend], **variables)
    with threads_end("clip-batch"), closing(client.iter_images(f"http://a/{n}" for n in count())) as results:
        first = next(results)

    assert isinstance(first, Embedding)
    assert vector_of("http://a/0") == first.vector.tolist()
