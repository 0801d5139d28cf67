"""Items of a batch move to the fallback as single images do: one by one, after their retries, never mixed unseen."""

from collections.abc import Callable, Iterator

import pytest
from clip_embedding_client import ClipClient, Embedding, errors
from clip_embedding_client.backends.pod import PodBackend
from clip_embedding_client.clock import Clock

from tests.client.scripted import (
    FINGERPRINT,
    Body,
    FakeBackend,
    FakeTime,
    client_of,
    item_error,
    settings,
    success,
    vector_of,
)
from tests.client.test_errors import service_codes
from tests.logs import records_of
from tools.chaos.engine import picture
from tools.testbed.image_server import ImageServer
from tools.testbed.process import GUNICORN, SECRET, PodProcess, pod_process

OTHER = "bbbbbbbbbbbbbbbb"
UNAVAILABLE = ["INFERENCE_ERROR", "DEADLINE_EXCEEDED", "OVERLOADED", "NOT_READY", "RATE_LIMITED", "INTERNAL"]
GOOD, BAD = "http://a/good", "http://a/bad"

Respond = Callable[[Body], Body]


def failing(code: str, *, when: str = "bad", retryable: bool = True) -> Respond:
    """A service that answers every item but those whose URL has `when` in it."""

    def respond(body: Body) -> Body:
        answer = success(body)
        pairs = zip(body["items"], answer["results"], strict=True)
        answer["results"] = [
            item_error(item, code, retryable=retryable) if when in item["image_url"] else result
            for item, result in pairs
        ]
        return answer

    return respond


def spare(fingerprint: str = FINGERPRINT) -> FakeBackend:
    return FakeBackend("runpod_serverless", fingerprint)


def client_over(*backends: FakeBackend, time: FakeTime | None = None, **given: str) -> ClipClient:
    chosen = {"CLIP_RETRY_ATTEMPTS": "2"} | given
    return client_of(backends, (time or FakeTime()).clock(), **chosen)


def sent(backend: FakeBackend) -> list[list[str]]:
    """The URLs of each batch that arrived."""
    return [[item["image_url"] for item in body["items"]] for body in backend.calls]


def backends_of(results: list[Embedding | errors.ClipClientError]) -> list[str]:
    """Who answered each item, or the code of its error."""
    return [result.backend if isinstance(result, Embedding) else result.code for result in results]


@pytest.mark.parametrize("code", [pytest.param(code, id=code) for code in UNAVAILABLE])
def test_items_that_a_backend_cannot_serve_are_answered_by_the_other(code: str) -> None:
    """After its retries an item goes to the fallback alone; results stay in order and good ones are kept."""
    primary, fallback = FakeBackend(respond=failing(code)), spare()
    urls = [GOOD + "-1", BAD + "-2", GOOD + "-3", BAD + "-4"]

    results = client_over(primary, fallback).embed_images(urls)

    assert ["runpod_pod", "runpod_serverless"] * 2 == backends_of(results)
    assert [vector_of(url) for url in urls] == [one.vector.tolist() for one in results if isinstance(one, Embedding)]
    assert [urls, urls[1::2]] == sent(primary)
    assert [urls[1::2]] == sent(fallback)


@pytest.mark.parametrize(
    ("code", "retryable"), [pytest.param(*row, id="-".join(map(str, row))) for row in service_codes()]
)
def test_an_item_moves_exactly_when_a_single_image_does(code: str, retryable: bool) -> None:
    """Whatever the service's code, alone and in a batch the same is asked of the primary and of the fallback."""
    error = errors.error_from_wire({"code": code, "message": "m", "retryable": retryable})
    alone = FakeBackend(error=error), spare()
    batch = FakeBackend(respond=failing(code, retryable=retryable)), spare()

    # One good item, so that the primary is known and not down.
    results = client_over(*batch).embed_images([BAD, GOOD])
    single = client_over(*alone, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)
    try:
        outcome = single.embed_image(BAD).backend
    except errors.ClipClientError as caught:
        outcome = caught.code

    assert [outcome, "runpod_pod"] == backends_of(results)
    assert [len(backend.calls) for backend in alone] == [len(backend.calls) for backend in batch]


def test_items_whose_own_download_failed_stay() -> None:
    """An image's slow host is as slow for the fallback: it is tried again where it was."""
    primary, fallback = FakeBackend(respond=failing("DOWNLOAD_TIMEOUT")), spare()

    results = client_over(primary, fallback).embed_images([GOOD, BAD])

    assert ["runpod_pod", "DOWNLOAD_TIMEOUT"] == backends_of(results)
    assert [[GOOD, BAD], [BAD]] == sent(primary)
    assert [] == fallback.calls


def test_batches_without_one_answer_open_the_breaker(caplog: pytest.LogCaptureFixture) -> None:
    """A 200 in which every item says "unavailable" is a failure: after two the primary is left alone."""
    primary, fallback = FakeBackend(respond=failing("INFERENCE_ERROR")), spare()
    client = client_over(primary, fallback)

    by = [backends_of(client.embed_images([BAD + str(number), BAD])) for number in range(4)]

    assert [["runpod_serverless"] * 2] * 4 == by
    assert 2 * 2 == len(primary.calls)
    assert 1 == client.counters["switches"]
    assert ["the backend was switched"] == [record.message for record in records_of(caplog, "clip_embedding_client")]


@pytest.mark.parametrize(
    "other", [pytest.param(GOOD, id="a vector"), pytest.param("http://a/refused", id="a refused item")]
)
def test_one_answer_shows_that_a_backend_is_up(other: str) -> None:
    """An image that no model can take does not make a service look down that answers for the rest of its batch."""
    refuse = failing("INVALID_IMAGE", when="refused", retryable=False)

    def respond(body: Body) -> Body:
        pairs = zip(failing("INFERENCE_ERROR")(body)["results"], refuse(body)["results"], strict=True)
        return success(body) | {"results": [first if "error" in first else second for first, second in pairs]}

    primary, fallback = FakeBackend(respond=respond), spare()
    client = client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)

    for _ in range(5):
        client.embed_images([BAD, other])

    assert [[BAD, other], [BAD]] * 5 == sent(primary)
    assert 0 == client.counters["switches"]


def test_moved_items_are_compared_by_fingerprint() -> None:
    """Another model's vectors are refused for the items that moved; those of the first answer stand."""
    primary, fallback = FakeBackend(respond=failing("INFERENCE_ERROR")), spare(OTHER)

    results = client_over(primary, fallback).embed_images([GOOD, BAD])

    assert ["runpod_pod", "FINGERPRINT_MISMATCH"] == backends_of(results)


def test_items_of_a_primary_that_was_never_seen() -> None:
    """With nothing to compare it with, the fallback is not asked, and each item says why."""
    primary = FakeBackend(error=errors.ConnectionFailed("m"), healthy=False)
    fallback = spare()

    results = client_over(primary, fallback).embed_images([GOOD, BAD])

    assert ["FINGERPRINT_UNKNOWN"] * 2 == backends_of(results)
    assert [errors.ConnectionFailed] * 2 == [type(result.__cause__) for result in results]  # type: ignore[union-attr]
    assert [] == fallback.calls


def test_no_backend_can_serve_an_item() -> None:
    """The last word is the fallback's; while that is known to be down, the primary's own error stays."""
    primary, fallback = FakeBackend(respond=failing("INFERENCE_ERROR")), spare()
    fallback.error = errors.GatewayFailed("m")
    client = client_over(primary, fallback, CLIP_BREAKER_FAILURES="1")

    first, second = (backends_of(client.embed_images([BAD, GOOD])) for _ in range(2))

    assert (["BAD_GATEWAY", "runpod_pod"], ["INFERENCE_ERROR", "runpod_pod"]) == (first, second)
    assert 2 == len(fallback.calls)


def test_fallback_that_cannot_start() -> None:
    """A mistake in its settings takes nothing from what the primary has answered: it is the cause of what is left."""
    primary, fallback = FakeBackend(respond=failing("INFERENCE_ERROR")), spare()
    fallback.error = errors.ConfigurationError("CLIP_MODEL: no such folder")
    client = client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)

    good, bad = client.embed_images([GOOD, BAD])
    assert ["runpod_pod", "INFERENCE_ERROR"] == backends_of([good, bad])
    assert isinstance(bad, errors.ClipClientError)
    assert bad.__cause__ is fallback.error
    [alone] = client.embed_images([BAD])
    assert ["INFERENCE_ERROR"] == backends_of([alone])


def test_probe_that_finds_the_primary_up_is_a_call_like_any_other() -> None:
    """An answer ends the doubt: the items of that batch are tried again as always."""
    time, primary, fallback = FakeTime(), FakeBackend(error=errors.ConnectionFailed("m")), spare()
    client = client_over(primary, fallback, time=time, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT, CLIP_BREAKER_FAILURES="1")
    client.embed_images([GOOD])
    time.now_s += 30
    primary.error, primary.respond = None, failing("DOWNLOAD_TIMEOUT")
    primary.calls.clear()

    client.embed_images([GOOD, BAD])

    assert [[GOOD, BAD], [BAD]] == sent(primary)


def slow(time: FakeTime, respond: Respond, seconds: float, began_s: list[float]) -> Respond:
    """Each answer takes so long; when it was begun is noted."""

    def respond_slowly(body: Body) -> Body:
        began_s.append(time.now_s)
        time.now_s += seconds
        return respond(body)

    return respond_slowly


def test_no_attempt_for_items_begins_without_seconds_for_it() -> None:
    """Attempts that are left do not matter when the seconds are over, and none is given more than is left."""
    time, began_s = FakeTime(), list[float]()
    start_s = time.now_s
    primary = FakeBackend(respond=slow(time, failing("DOWNLOAD_TIMEOUT"), 10, began_s))
    limits = {"CLIP_RETRY_ATTEMPTS": "9", "CLIP_TOTAL_TIMEOUT_S": "30"}

    client_over(primary, time=time, **limits).embed_images([GOOD, BAD])

    # Three times ten seconds, and pauses between them of which the last ends after the thirtieth.
    assert 3 == len(began_s)
    assert [30.0 - (moment - start_s) for moment in began_s] == primary.timeouts_s


def hangs(time: FakeTime, backend: FakeBackend) -> Respond:
    """Every answer takes all the time that it is given, and never comes."""

    def respond(_body: Body) -> Body:
        time.now_s += backend.timeouts_s[-1]
        raise errors.BackendTimeout("m")

    return respond


@pytest.mark.parametrize(
    ("limits", "of_primary_s", "of_fallback_s"),
    [
        pytest.param({}, 60.0, 120.0, id="defaults: one whole attempt of each"),
        pytest.param({"RUNPOD_TIMEOUT_S": "45"}, 135.0, 45.0, id="a fallback that is quick"),
        pytest.param({"RUNPOD_TIMEOUT_S": "500"}, 60.0, 120.0, id="a fallback that would take everything"),
        pytest.param({"CLIP_TOTAL_TIMEOUT_S": "9"}, 3.0, 6.0, id="little time"),
    ],
)
def test_both_backends_share_the_seconds_of_a_call(
    limits: dict[str, str], of_primary_s: float, of_fallback_s: float
) -> None:
    """A primary that hangs leaves the fallback its time, and a call is over when its seconds are, whoever has them."""
    time, primary, fallback = FakeTime(), FakeBackend(), spare()
    start_s = time.now_s
    primary.respond, fallback.respond = hangs(time, primary), hangs(time, fallback)
    chosen = {"CLIP_EXPECTED_FINGERPRINT": FINGERPRINT, "CLIP_RETRY_ATTEMPTS": "9"} | limits

    results = client_over(primary, fallback, time=time, **chosen).embed_images([GOOD, BAD])

    assert ["BACKEND_TIMEOUT"] * 2 == backends_of(results)
    assert [[pytest.approx(of_primary_s)], [pytest.approx(of_fallback_s)]] == [primary.timeouts_s, fallback.timeouts_s]
    assert pytest.approx(of_primary_s + of_fallback_s) == time.now_s - start_s


def test_fallback_is_not_begun_when_the_seconds_are_over() -> None:
    """A primary that took longer than it was given leaves nothing; its own errors are the result."""
    time, began_s = FakeTime(), list[float]()
    primary, fallback = FakeBackend(respond=slow(time, failing("INFERENCE_ERROR"), 30, began_s)), spare()

    results = client_over(primary, fallback, time=time, CLIP_TOTAL_TIMEOUT_S="30").embed_images([GOOD, BAD])

    assert ["runpod_pod", "INFERENCE_ERROR"] == backends_of(results)
    assert ([time.now_s - 30], []) == (began_s, fallback.calls)


class SparePod(PodBackend):
    """A second pod, told apart by its name."""

    name = "runpod_serverless"


@pytest.fixture
def pods() -> Iterator[tuple[PodProcess, PodProcess]]:
    """A pod whose device is too small for any item, and one that works: the same model in both."""
    command = [*GUNICORN, "tools.chaos.wsgi:app"]
    with pod_process({"CHAOS_MAX_ITEMS": "0"}, command=command) as broken, pod_process(command=command) as working:
        yield broken, working


def test_real_pod_that_fails_on_every_item(pods: tuple[PodProcess, PodProcess], images: ImageServer) -> None:
    """Its answers are 200, and all images arrive from the other pod; after one such batch it is not asked any more."""
    urls = [images.add(f"/item-failover-{number}.png", picture(f"0000000{number}")) for number in range(3)]
    broken, working = pods
    backends = PodBackend(broken.base_url, timeout_s=60), SparePod(working.base_url, timeout_s=60)
    chosen = {"EMBEDDING_HMAC_SECRET": SECRET, "CLIP_RETRY_ATTEMPTS": "1", "CLIP_BREAKER_FAILURES": "1"}

    with client_of(backends, Clock(), **chosen) as client:
        by = [backends_of(client.embed_images(urls)) for _ in range(2)]
        switches = client.counters["switches"]
    with ClipClient(settings(CLIP_POD_BASE_URL=broken.base_url, CLIP_RETRY_ATTEMPTS="1")) as alone:
        without_fallback = backends_of(alone.embed_images(urls[:1]))

    assert [["runpod_serverless"] * 3] * 2 == by
    assert 1 == switches
    assert ["INFERENCE_ERROR"] == without_fallback
