"""What a client tells of itself: to a callback, in its counters and in the log."""

import pytest
from clip_embedding_client import Event, MixRefused, Retried, Switched, errors
from clip_embedding_client.events import Events

from tests.client.scripted import FINGERPRINT, Body, FakeBackend, FakeTime, client_of, item_error, success
from tests.logs import records_of

OTHER = "bbbbbbbbbbbbbbbb"
NOTHING = {"switches": 0, "retries": 0, "refused_mixes": 0}


def test_nothing_has_happened() -> None:
    """The counters have their names from the start, and a call that is answered at once changes none."""
    told: list[Event] = []
    client = client_of([FakeBackend()], None, told.append)
    before = client.counters
    client.embed_text("x")

    assert (NOTHING, NOTHING, []) == (before, client.counters, told)


def test_retries_are_told() -> None:
    """Of which backend, why, how many items, after which attempt, and how long the pause is."""
    told: list[Event] = []
    time, backend = FakeTime(), FakeBackend(error=errors.Overloaded("m", retry_after_s=9.0))
    client = client_of([backend], time.clock(), told.append, CLIP_RETRY_ATTEMPTS="3")
    with pytest.raises(errors.Overloaded):
        client.embed_text("x")

    assert [Retried("runpod_pod", "OVERLOADED", 1, attempt, 9.0) for attempt in (1, 2)] == told
    assert NOTHING | {"retries": 2} == client.counters


def test_retries_of_items_are_counted_one_by_one() -> None:
    """Two items of a batch that are sent again are two retries, and one event; the others are none."""

    def respond(body: Body) -> Body:
        answer = success(body)
        if len(body["items"]) == 3:
            answer["results"][1:] = [item_error(item, "INFERENCE_ERROR") for item in body["items"][1:]]
        return answer

    told: list[Event] = []
    client = client_of([FakeBackend(respond=respond)], None, told.append)
    client.embed_texts(["a", "b", "c"])

    [event] = told
    assert isinstance(event, Retried)
    assert ("INFERENCE_ERROR", 2, 1) == (event.code, event.items, event.attempt)
    assert NOTHING | {"retries": 2} == client.counters


def test_switches_are_told() -> None:
    """Away from the primary when it is down, and back when its probe has shown that it is up."""
    told: list[Event] = []
    time, primary = FakeTime(), FakeBackend(error=errors.ConnectionFailed("m"))
    client = client_of(
        [primary, FakeBackend("runpod_serverless")],
        time.clock(),
        told.append,
        CLIP_RETRY_ATTEMPTS="1",
        CLIP_BREAKER_FAILURES="1",
        CLIP_EXPECTED_FINGERPRINT=FINGERPRINT,
    )
    client.embed_text("x")
    primary.error = None
    time.now_s += 30
    client.embed_text("x")

    assert [Switched("runpod_pod", "runpod_serverless"), Switched("runpod_serverless", "runpod_pod")] == told
    assert NOTHING | {"switches": 2} == client.counters


def test_refused_mixes_are_told() -> None:
    """Once a request, with the number of its items and both fingerprints."""
    told: list[Event] = []
    backend = FakeBackend(fingerprint=OTHER)
    client = client_of([backend], None, told.append, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)
    client.embed_texts(["a", "b", "c"])
    with pytest.raises(errors.FingerprintMismatch):
        client.embed_text("x")

    assert [MixRefused("runpod_pod", FINGERPRINT, OTHER, items) for items in (3, 1)] == told
    assert NOTHING | {"refused_mixes": 4} == client.counters


def test_callback_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is logged and harms no call; the counters go on."""

    def fail(_event: Event) -> None:
        raise ZeroDivisionError

    client = client_of([FakeBackend(fingerprint=OTHER)], None, fail, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)
    [outcome] = client.embed_texts(["x"])

    assert errors.FingerprintMismatch is type(outcome)
    assert NOTHING | {"refused_mixes": 1} == client.counters
    [record] = records_of(caplog, "clip_embedding_client")
    assert ("the callback for events failed", True) == (record.message, record.exc_info is not None)


def test_interruption_in_a_callback() -> None:
    """Ctrl-C is no fault of the callback: it goes its way."""

    def interrupt(_event: Event) -> None:
        raise KeyboardInterrupt

    client = client_of([FakeBackend(fingerprint=OTHER)], None, interrupt, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)
    with pytest.raises(KeyboardInterrupt):
        client.embed_text("x")


def test_callback_may_ask_for_the_counters() -> None:
    """They are up to date when it is called, and nothing waits for itself."""
    seen: list[int] = []
    events = Events(lambda _event: seen.append(events.counters()["switches"]))
    for _ in range(2):
        events.switched("a", "b")

    assert [1, 2] == seen


def test_counters_are_a_copy() -> None:
    """What a caller holds does not change under it, nor does the client by what a caller does to it."""
    events = Events()
    before = events.counters()
    events.switched("a", "b")
    dict.update(before, {"retries": 99})

    assert NOTHING | {"switches": 1} == events.counters()
