"""Primary and fallback: when calls move, that it is said once, and that vectors are never mixed unseen."""

from itertools import count

import pytest
from clip_embedding_client import BackendName, ClipClient, Embedding, errors

from tests.client.scripted import (
    FINGERPRINT,
    Body,
    FakeBackend,
    FakeTime,
    answer,
    client_of,
    item_error,
    scripted_server,
    settings,
    success,
    vector_of,
)
from tests.client.test_serverless import completed
from tests.logs import records_of

OTHER = "bbbbbbbbbbbbbbbb"
DOWN = errors.ConnectionFailed("nothing takes connections there")
SWITCHED = "the backend was switched"


def client_over(
    primary: FakeBackend, fallback: FakeBackend, time: FakeTime | None = None, /, **given: str
) -> ClipClient:
    chosen = {"CLIP_RETRY_ATTEMPTS": "2"} | given
    return client_of([primary, fallback], (time or FakeTime()).clock(), **chosen)


def spare(fingerprint: str = FINGERPRINT) -> FakeBackend:
    return FakeBackend("runpod_serverless", fingerprint)


def switches(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [vars(record) for record in caplog.records if record.message == SWITCHED]
    return [(record["from"], record["to"]) for record in records]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(errors.ConnectionFailed("m"), id="connection"),
        pytest.param(errors.BackendTimeout("m"), id="timeout"),
        pytest.param(errors.Overloaded("m"), id="503"),
        pytest.param(errors.RateLimited("m"), id="429"),
        pytest.param(errors.GatewayFailed("m"), id="502"),
        pytest.param(errors.ServerFailed("m"), id="500"),
        pytest.param(errors.JobFailed("m"), id="job"),
    ],
)
def test_falls_back_when_the_backend_is_at_fault(error: Exception) -> None:
    """After its retries the call is answered by the fallback, and says by whom."""
    primary, fallback = FakeBackend(error=error), spare()

    embedding = client_over(primary, fallback).embed_text("x")

    assert (2, 1, "runpod_serverless") == (len(primary.calls), len(fallback.calls), embedding.backend)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(errors.AuthFailed("m"), id="401"),
        pytest.param(errors.InvalidImage("m"), id="422"),
        pytest.param(errors.DownloadTimeout("m"), id="image that cannot be downloaded now"),
        pytest.param(errors.WrongResponse("m"), id="wrong response"),
        pytest.param(errors.BackendMisconfigured("m"), id="misconfigured"),
    ],
)
def test_never_falls_back_on_a_refused_request(error: Exception) -> None:
    """The fallback would refuse it as well, or hide a mistake in the settings."""
    primary, fallback = FakeBackend(error=error), spare()

    with pytest.raises(type(error)):
        client_over(primary, fallback).embed_image("http://a/")

    assert [] == fallback.calls


def test_moves_and_returns_and_says_each_once(caplog: pytest.LogCaptureFixture) -> None:
    """After failures in a row the primary is left alone, until one probe after the cool-down succeeds."""
    time, primary, fallback = FakeTime(), FakeBackend(), spare()
    client = client_over(primary, fallback, time, CLIP_BREAKER_COOL_DOWN_S="30")
    client.embed_text("learn the fingerprint")
    primary.error = DOWN

    by = [client.embed_text("x").backend for _ in range(4)]
    calls_while_down = len(primary.calls)
    time.now_s += 30
    by.append(client.embed_text("a probe that fails").backend)
    probes = len(primary.calls) - calls_while_down
    time.now_s += 30
    primary.error = None
    by += [client.embed_text("a probe that succeeds").backend, client.embed_text("x").backend]

    assert [*["runpod_serverless"] * 5, *["runpod_pod"] * 2] == by
    # One success, two calls of two attempts each, and then nothing until the probe, which is sent once.
    assert (5, 1) == (calls_while_down, probes)
    assert [("runpod_pod", "runpod_serverless"), ("runpod_serverless", "runpod_pod")] == switches(caplog)
    assert 2 == client.counters["switches"]


def test_both_down_goes_on_asking_the_primary() -> None:
    """With both open, calls still try the primary: failing at once would empty a caller's queue."""
    primary, fallback = FakeBackend(error=DOWN), spare()
    fallback.error = errors.GatewayFailed("m")
    client = client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)
    for _ in range(3):
        with pytest.raises(errors.UnavailableError):
            client.embed_text("x")
    asked = len(fallback.calls)

    with pytest.raises(errors.ConnectionFailed):
        client.embed_text("x")
    primary.error = None

    assert "runpod_pod" == client.embed_text("x").backend
    assert asked == len(fallback.calls)


def test_without_a_fallback_the_breaker_stays_out() -> None:
    """There is nowhere else to go, so every call is tried."""
    primary = FakeBackend(error=DOWN)
    client = client_of([primary], CLIP_RETRY_ATTEMPTS="1")
    for _ in range(5):
        with pytest.raises(errors.ConnectionFailed):
            client.embed_text("x")

    assert 5 == len(primary.calls)


def test_another_model_behind_the_fallback() -> None:
    """Vectors that are not comparable are refused, and both fingerprints are named."""
    primary, fallback = FakeBackend(), spare(OTHER)
    client = client_over(primary, fallback)
    client.embed_text("x")
    primary.error = DOWN

    with pytest.raises(errors.FingerprintMismatch) as caught:
        client.embed_text("x")

    assert FINGERPRINT in caught.value.message
    assert OTHER in caught.value.message


def test_fingerprint_is_learned_from_health() -> None:
    """A primary that never answered a request but answers health is known by that."""
    primary, fallback = FakeBackend(error=errors.Overloaded("m")), spare(OTHER)

    with pytest.raises(errors.FingerprintMismatch):
        client_over(primary, fallback).embed_text("x")


def test_primary_that_was_never_seen() -> None:
    """The fallback is not asked while nobody knows what to compare it with."""
    primary, fallback = FakeBackend(error=DOWN, healthy=False), spare()

    with pytest.raises(errors.FingerprintUnknown) as caught:
        client_over(primary, fallback).embed_text("x")

    assert "CLIP_EXPECTED_FINGERPRINT" in caught.value.message
    assert [] == fallback.calls


def test_fingerprint_is_asked_for_within_the_calls_time() -> None:
    """And not by every call of a primary that does not answer: as often as the breaker would try it."""
    time, primary = FakeTime(), FakeBackend(error=DOWN, healthy=False)
    client = client_over(primary, spare(), time, CLIP_BREAKER_COOL_DOWN_S="30", CLIP_RETRY_ATTEMPTS="1")
    for _ in range(3):
        with pytest.raises(errors.FingerprintUnknown):
            client.embed_text("x", timeout=1)
    at_first = list(primary.health_timeouts_s)
    time.now_s += 30
    with pytest.raises(errors.FingerprintUnknown):
        client.embed_text("x")

    assert [pytest.approx(0.5, abs=0.2)] == at_first
    assert 5.0 == primary.health_timeouts_s[1]
    assert 2 == len(primary.health_timeouts_s)


SET_UP_WRONGLY = [
    pytest.param(errors.BackendMisconfigured("m"), id="key"),
    pytest.param(errors.AuthFailed("m"), id="secret"),
    pytest.param(errors.AuthExpired("m"), id="clock"),
    pytest.param(errors.WrongResponse("m"), id="another service"),
    pytest.param(errors.ConfigurationError("m"), id="cannot start"),
]


@pytest.mark.parametrize("error", SET_UP_WRONGLY)
def test_fallback_that_is_set_up_wrongly(error: errors.SetupError) -> None:
    """An item that the primary may have in a minute is not called hopeless for it; the cause says what to mend."""
    primary, fallback = FakeBackend(error=errors.ConnectionFailed("m")), spare()
    # As where it was not the scripted one that raised it.
    primary.error.__cause__ = OSError("reset")  # type: ignore[union-attr]
    fallback.error = error

    with pytest.raises(errors.ConnectionFailed) as caught:
        client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT).embed_text("x")

    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", SET_UP_WRONGLY)
def test_primary_that_is_left_alone_is_asked_then(error: errors.SetupError) -> None:
    """Such a fallback is as good as down."""
    primary, fallback = FakeBackend(error=DOWN), spare()
    client = client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)
    for _ in range(5):
        client.embed_text("x")
    asked = len(primary.calls)
    client.embed_text("the primary is left alone")
    assert asked == len(primary.calls)
    fallback.error = error
    with pytest.raises(errors.ConnectionFailed) as caught:
        client.embed_text("x")
    primary.error = None

    assert caught.value.__cause__ is error
    assert "runpod_pod" == client.embed_text("x").backend


def test_fallback_that_cannot_start_is_left_alone_as_well() -> None:
    """Each try takes a call's time, and shows the same."""
    primary, fallback = FakeBackend(error=DOWN), spare()
    fallback.error = errors.ConfigurationError("CLIP_MODEL: no such folder")
    client = client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT, CLIP_BREAKER_FAILURES="2")
    for _ in range(6):
        with pytest.raises(errors.ConnectionFailed):
            client.embed_text("x")

    assert 2 == len(fallback.calls)


def test_each_item_has_the_cause_that_is_its_own() -> None:
    """Also where one error is that of all of them."""
    primary, fallback = FakeBackend(respond=refused_differently), spare()
    fallback.error = errors.GatewayFailed("m")

    results = client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT).embed_texts(["a", "b"])

    assert ["BAD_GATEWAY"] * 2 == [one.code for one in results if isinstance(one, errors.ClipClientError)]
    assert ["INFERENCE_ERROR", "OVERLOADED"] == [one.__cause__.code for one in results]  # type: ignore[union-attr]


def refused_differently(members: Body) -> Body:
    codes = ("INFERENCE_ERROR", "OVERLOADED")
    results = [item_error(item, code) for item, code in zip(members["items"], codes, strict=True)]
    return {"results": results, "fingerprint": FINGERPRINT}


def test_neither_can_be_reached() -> None:
    """The last word is the fallback's, and the cause the primary's: not what a library has said of either."""
    primary, fallback = FakeBackend(error=DOWN), spare()
    fallback.error = errors.BackendTimeout("m")
    fallback.error.__cause__ = OSError("reset")

    with pytest.raises(errors.BackendTimeout) as caught:
        client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT).embed_text("x")

    assert caught.value.__cause__ is DOWN


def test_both_refuse_for_the_images_sake() -> None:
    """What the fallback says of an item itself is the last word, and the primary's error its cause."""
    primary, fallback = FakeBackend(error=DOWN), spare()
    fallback.error = errors.InvalidImage("m")

    with pytest.raises(errors.InvalidImage) as caught:
        client_over(primary, fallback, CLIP_EXPECTED_FINGERPRINT=FINGERPRINT).embed_image("http://a/")

    assert caught.value.__cause__ is DOWN


@pytest.mark.parametrize(
    ("given", "fingerprint"),
    [
        pytest.param({"CLIP_EXPECTED_FINGERPRINT": OTHER}, OTHER, id="expected fingerprint"),
        pytest.param({"CLIP_ALLOW_FINGERPRINT_MISMATCH": "1"}, OTHER, id="mismatch allowed"),
    ],
)
def test_settings_that_let_an_unseen_primary_be_replaced(given: dict[str, str], fingerprint: str) -> None:
    """A fingerprint in the settings, or giving up the check, lets a fresh worker use the fallback."""
    primary, fallback = FakeBackend(error=DOWN, healthy=False), spare(fingerprint)

    assert fingerprint == client_over(primary, fallback, **given).embed_text("x").fingerprint


def test_mismatch_allowed_after_all() -> None:
    """CLIP_ALLOW_FINGERPRINT_MISMATCH=1 gives the vectors, each with its own fingerprint."""
    primary, fallback = FakeBackend(), spare(OTHER)
    client = client_over(primary, fallback, CLIP_ALLOW_FINGERPRINT_MISMATCH="1")
    client.embed_text("x")
    primary.error = DOWN

    assert OTHER == client.embed_text("x").fingerprint


def test_expected_fingerprint_binds_the_primary_too() -> None:
    """A pod that was rebuilt with another model is noticed by its first answer."""
    client = client_over(FakeBackend(fingerprint=OTHER), spare(), CLIP_EXPECTED_FINGERPRINT=FINGERPRINT)

    with pytest.raises(errors.FingerprintMismatch):
        client.embed_text("x")


def test_change_of_the_primarys_model_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Without an expected fingerprint a new model is taken, and the log names both."""
    primary = FakeBackend()
    client = client_over(primary, spare(OTHER))
    client.embed_text("x")
    primary.fingerprint = OTHER
    client.embed_text("x")
    primary.error = DOWN

    assert OTHER == client.embed_text("x").fingerprint
    assert ["the model of a backend has changed"] == [
        record.message for record in records_of(caplog, "clip_embedding_client")
    ]


def test_pod_dies_in_the_middle_of_many_images(caplog: pytest.LogCaptureFixture) -> None:
    """All items arrive, in order, none twice; the switch is said once, whatever the threads do."""
    primary, fallback = FakeBackend(), spare()
    numbers = count(1)

    def dies_after_three(body: Body) -> Body:
        if next(numbers) > 3:
            raise DOWN
        return success(body)

    primary.respond = dies_after_three
    urls = [f"http://a/{number:03}" for number in range(200)]
    client = client_over(primary, fallback, CLIP_BATCH_SIZE="5", CLIP_CONCURRENT_BATCHES="4")

    results = client.embed_images(urls)

    assert [vector_of(url) for url in urls] == [
        result.vector.tolist() for result in results if isinstance(result, Embedding)
    ]
    answered = [item["image_url"] for body in fallback.calls for item in body["items"]]
    assert len(answered) == len(set(answered)) == 200 - 15
    assert [("runpod_pod", "runpod_serverless")] == switches(caplog)
    assert 1 == client.counters["switches"]


def test_over_real_sockets() -> None:
    """The same through two real servers: the first one goes away, the other one answers."""
    time = FakeTime()
    with scripted_server(answer) as spare_script:
        with scripted_server(answer) as script:
            chosen = settings(
                CLIP_POD_BASE_URL=script.base_url,
                CLIP_FALLBACK_BACKEND="runpod_serverless",
                RUNPOD_BASE_URL=spare_script.base_url,
                RUNPOD_CLIP_ENDPOINT_ID=".",
            )
            client = ClipClient(chosen, clock=time.clock())
            first = client.embed_text("x").backend
        spare_script.answers = [completed]
        with client:
            second = client.embed_text("x").backend

    assert (BackendName.POD.value, BackendName.SERVERLESS.value) == (first, second)
