"""Which items travel together, and whose each outcome is: no client, no driver."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from clip_embedding_client import ClipClientError, Embedding, ImageItem, TextItem, errors
from clip_embedding_client.batching import MOST_CONTENT_BYTES, Chunk, Chunker, checked_or_error, loaded_or_error
from clip_embedding_client.images import LoadedImage
from clip_embedding_client.operations import Sendable
from clip_embedding_client.policy import Policy
from hypothesis import given
from hypothesis import strategies as st

from tests.client.flows import play
from tests.client.scripted import Body, FakeBackend, FakeTime, item_error, settings, success, vector_of

REFUSED = errors.ValidationFailed("the image has no bytes")


def image(size_bytes: int, name: str = "") -> LoadedImage:
    """One of which only the size counts."""
    return LoadedImage(None, "AA==", size_bytes, f"id-{name}", normalize=True, payload_id=f"sha256:{name}")


def chunks(items: Iterable[Sendable | ClipClientError], most_items: int = 1000) -> list[Chunk[Sendable]]:
    chunker: Chunker[Sendable] = Chunker(most_items)
    return [*(chunk for item in items for chunk in chunker.add(item)), *chunker.rest()]


def outcomes_of(backend: FakeBackend, chunk: Chunk[Sendable], /, **given: str) -> list[Embedding | ClipClientError]:
    time = FakeTime()
    policy = Policy.over([backend], settings(**given), time.clock())
    done = play(policy.chunk(chunk, None, None), time=time)
    assert done.error is None
    outcomes: list[Embedding | ClipClientError] = done.result
    return outcomes


def texts_sent(backend: FakeBackend) -> list[list[tuple[str, bool]]]:
    """What each request asked for, and whether normalised."""
    return [[(item["text"], item["normalize"]) for item in body["items"]] for body in backend.calls]


def one_chunk(items: Sequence[TextItem]) -> Chunk[TextItem]:
    [chunk] = chunks([checked_or_error(item) for item in items])
    return chunk


@given(st.lists(st.one_of(st.just(REFUSED), st.integers(0, MOST_CONTENT_BYTES * 2).map(image))), st.integers(1, 9))
def test_chunks_are_the_items_in_order(items: list[LoadedImage | ClipClientError], most_items: int) -> None:
    """Nothing is lost, turned round or empty, and no chunk is larger than it may be, unless one image is."""
    found = chunks(items, most_items)

    told: list[object] = []
    for chunk in found:
        members = chunk.items | chunk.errors
        told += [members[position] for position in range(len(chunk))]
        assert 1 <= len(chunk) <= most_items
        assert chunk.content_bytes <= MOST_CONTENT_BYTES or len(chunk.items) == 1
    assert [id(item) for item in items] == [id(item) for item in told]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([MOST_CONTENT_BYTES - 1, 1], [2], id="exactly as much as fits"),
        pytest.param([MOST_CONTENT_BYTES - 1, 2], [1, 1], id="a byte too much"),
        pytest.param([MOST_CONTENT_BYTES + 1], [1], id="one that is too much by itself"),
        pytest.param([1, MOST_CONTENT_BYTES + 1, 1], [1, 1, 1], id="and its neighbours"),
        pytest.param([0] * 20, [20], id="URLs"),
    ],
)
def test_content_of_a_chunk(sizes: list[int], expected: list[int]) -> None:
    """8 MiB of images' own bytes in one request, however few that are: RunPod takes no larger job."""
    assert expected == [len(chunk) for chunk in chunks([image(size) for size in sizes])]


def test_full_chunk_is_given_at_once() -> None:
    """It does not wait for the item after it."""
    chunker: Chunker[TextItem] = Chunker(2)

    assert [0, 1, 0] == [len(list(chunker.add(TextItem(text)))) for text in "abc"]
    assert ([1], []) == ([len(chunk) for chunk in chunker.rest()], list(chunker.rest()))


def test_items_that_cannot_be_sent() -> None:
    """Each is an error in its place, and takes no other with it; a chunk of nothing else sends nothing."""
    items = [TextItem("a"), TextItem(""), TextItem("b", request_id=""), TextItem("\ud800"), TextItem("c")]
    backend = FakeBackend()
    outcomes = outcomes_of(backend, one_chunk(items))

    good, bad = Embedding, errors.ValidationFailed
    assert [good, bad, bad, bad, good] == [type(outcome) for outcome in outcomes]
    assert [[("a", True), ("c", True)]] == texts_sent(backend)
    assert [errors.ValidationFailed] == [type(one) for one in outcomes_of(backend, one_chunk([TextItem("")]))]
    assert 1 == len(backend.calls)


def test_image_that_cannot_be_read() -> None:
    """Its error stands where its result would."""
    [chunk] = chunks([loaded_or_error(ImageItem(source)) for source in (b"", "http://a/")])
    refused, good = outcomes_of(FakeBackend(), chunk)

    assert (errors.ValidationFailed, Embedding) == (type(refused), type(good))


def test_payload_that_is_asked_for_both_ways() -> None:
    """Normalised and not is one signature, which a service takes once in a request: so there are two."""
    backend = FakeBackend()
    given_items = [("a", True), ("b", False), ("a", False), ("a", True), ("b", False)]
    outcomes = outcomes_of(backend, one_chunk([TextItem(text, normalize=normalize) for text, normalize in given_items]))

    assert [[("a", True), ("b", False)], [("a", False)]] == texts_sent(backend)
    assert given_items == [(_text_of(one), one.normalized) for one in outcomes if isinstance(one, Embedding)]


def _text_of(embedding: Embedding) -> str:
    return next(text for text in "ab" if vector_of(text) == embedding.vector.tolist())


def test_same_payload_in_two_chunks() -> None:
    """Each chunk asks for itself: nothing is remembered from one to the next."""
    backend = FakeBackend()
    for chunk in chunks([TextItem("a"), TextItem("a")], most_items=1):
        outcomes_of(backend, chunk)

    assert [[("a", True)]] * 2 == texts_sent(backend)


def test_one_item_given_twice() -> None:
    """The very same item, its id included, has two results: who changes one vector changes no other."""
    item = TextItem("a")
    first, second = outcomes_of(FakeBackend(), one_chunk([item, item]))

    assert isinstance(first, Embedding)
    assert isinstance(second, Embedding)
    assert first.vector is not second.vector
    first.vector[:] = 0
    assert vector_of("a") == second.vector.tolist()


def test_error_of_a_whole_request() -> None:
    """Each item has it as its own: with the item's id, what was asked for, and what it came from."""
    error = errors.Overloaded("busy", retry_after_s=7.0, request_id="from-server")
    error.__cause__ = cause = OSError("reset")
    items = [TextItem("a"), TextItem("b"), TextItem("a")]
    outcomes = outcomes_of(FakeBackend(error=error), one_chunk(items), CLIP_RETRY_ATTEMPTS="1")

    told = [(type(one), one.request_id, one) for one in outcomes if isinstance(one, ClipClientError)]
    assert [(errors.Overloaded, item.request_id) for item in items] == [(kind, name) for kind, name, _ in told]
    assert {(7.0, "busy", cause)} == {(one.retry_after_s, one.message, one.__cause__) for _, _, one in told}
    assert 3 == len({id(one) for _, _, one in told})
    assert "from-server" == error.request_id


ITEMS = st.builds(
    TextItem,
    text=st.sampled_from(["", "a", "b", "aa", "bb", "flaky", "broken"]),
    request_id=st.sampled_from(["one", "two", "three", "four", ""]),
    normalize=st.booleans(),
)


def may_become(item: TextItem, attempts: int) -> set[type[Embedding | ClipClientError]]:
    """What its outcome may be, where broken items always fail, and flaky ones every other time."""
    if not item.text or not item.request_id:
        return {errors.ValidationFailed}
    if item.text == "broken":
        return {errors.InferenceFailed}
    return {Embedding, errors.InferenceFailed} if item.text == "flaky" and attempts == 1 else {Embedding}


def flaky_backend() -> FakeBackend:
    tried: Counter[tuple[str, bool]] = Counter()

    def result(item: Body, good: Body) -> Body:
        asked = item["text"], item["normalize"]
        tried[asked] += 1
        fails = item["text"] == "broken" or (item["text"] == "flaky" and tried[asked] % 2)
        return item_error(item, "INFERENCE_ERROR") if fails else good

    def respond(body: Body) -> Body:
        answer = success(body)
        return answer | {"results": list(map(result, body["items"], answer["results"]))}

    return FakeBackend(respond=respond)


@given(items=st.lists(ITEMS, max_size=40), most_items=st.integers(1, 9), attempts=st.integers(1, 3))
def test_whatever_the_mix(items: list[TextItem], most_items: int, attempts: int) -> None:
    """One outcome per item, in order and its own; no request holds a payload twice, or more items than it may."""
    backend = flaky_backend()
    outcomes: list[Embedding | ClipClientError] = []
    for chunk in chunks([checked_or_error(item) for item in items], most_items):
        outcomes += outcomes_of(backend, chunk, CLIP_RETRY_ATTEMPTS=str(attempts))

    assert len(items) == len(outcomes) == len({id(outcome) for outcome in outcomes})
    for item, outcome in zip(items, outcomes, strict=True):
        assert type(outcome) in may_become(item, attempts)
        assert isinstance(outcome, errors.ValidationFailed) or item.request_id == outcome.request_id
        if isinstance(outcome, Embedding):
            assert (vector_of(item.text), item.normalize) == (outcome.vector.tolist(), outcome.normalized)
    payloads = [[text for text, _ in request] for request in texts_sent(backend)]
    assert all(len(request) == len(set(request)) <= most_items for request in payloads)
