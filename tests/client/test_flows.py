"""The client's policy by itself: which effects it asks for, in which order, without a driver, a socket or a clock."""

import asyncio
import json
from collections.abc import Mapping, Sequence

import pytest
from clip_embedding_client import ClipClient, ConfigurationError, TextItem, errors
from clip_embedding_client.effects import Exchange, HttpAnswer
from clip_embedding_client.policy import Policy

from tests.client.flows import Answer, Played, members, play
from tests.client.scripted import DIM, FINGERPRINT, Body, FakeTime, settings, success, vector_of

TEXT = TextItem("x", request_id="query-1")
SERVERLESS = {
    "CLIP_INFERENCE_BACKEND": "runpod_serverless",
    "RUNPOD_BASE_URL": "http://127.0.0.1:8001",
    "RUNPOD_CLIP_ENDPOINT_ID": ".",
    "CLIP_RETRY_ATTEMPTS": "1",
}
BROKEN = errors.ConnectionFailed("m")


def answered(body: object, status: int = 200, retry_after_s: float | None = None) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(body).encode(), retry_after_s)


def ok(exchange: object) -> HttpAnswer:
    """What a healthy pod answers."""
    assert isinstance(exchange, Exchange)
    if exchange.method == "GET":
        return answered({"status": "ok", "fingerprint": FINGERPRINT, "dim": DIM})
    return answered(success(members(exchange)))


def completed(exchange: object) -> HttpAnswer:
    """What an endpoint answers that is done at once."""
    assert isinstance(exchange, Exchange)
    return answered({"status": "COMPLETED", "output": success(members(exchange)["input"])})


def busy(retry_after_s: float | None = None) -> HttpAnswer:
    return answered({"error": {"code": "OVERLOADED", "message": "m", "retryable": True}}, 503, retry_after_s)


def job(status: str, **more: object) -> HttpAnswer:
    return answered({"id": "job-1", "status": status, **more})


def played(
    answers: Sequence[Answer],
    time: FakeTime | None = None,
    variables: Mapping[str, str] | None = None,
    /,
    *,
    timeout_s: float | None = None,
    max_retries: int | None = None,
) -> Played:
    """A text's vector asked for, at a pod unless `variables` say otherwise."""
    time = time or FakeTime()
    policy = Policy.of(settings(**(variables or {})), time.clock())
    return play(policy.single(TEXT, timeout_s, max_retries), answers, time=time)


def test_one_text() -> None:
    """One exchange, which is the whole request; nothing else is asked of the world."""
    done = played([ok])

    [exchange] = done.exchanges
    assert ("POST", "http://127.0.0.1:9/v1/embed/text", 60.0) == (exchange.method, exchange.url, exchange.timeout_s)
    assert {"text", "request_id", "normalize", "encoding_format", "auth"} == members(exchange).keys()
    assert {"Accept", "Accept-Encoding", "Content-Type", "X-Request-Timeout-Ms"} == exchange.all_headers().keys()
    assert (1, vector_of("x")) == (len(done.effects), done.result.vector.tolist())


def test_retries() -> None:
    """What can pass is sent again after a pause, which grows, is random, and is at least what the server asked for."""
    done = played([busy(), BROKEN, busy(7.0), ok])

    assert ["POST /v1/embed/text", *["pause", "POST /v1/embed/text"] * 3] == done.said()
    first_s, second_s, third_s = done.pauses_s
    assert (True, True, 7.0) == (0.25 <= first_s <= 0.5, 0.5 <= second_s <= 1.0, third_s)
    assert vector_of("x") == done.result.vector.tolist()


def test_what_is_refused_is_not_sent_again() -> None:
    """A permanent error is the end, and is raised as it is."""
    done = played([answered({"error": {"code": "INVALID_IMAGE", "message": "m", "retryable": False}}, 422)])

    assert errors.InvalidImage is type(done.error)
    assert 1 == len(done.effects)


@pytest.mark.parametrize("max_retries", [0, 1, 2, 5])
def test_max_retries(max_retries: int) -> None:
    """So many after the first attempt, whatever the settings say; the last error is raised."""
    done = played([busy()] * (max_retries + 1), max_retries=max_retries)

    assert max_retries == len(done.pauses_s)
    assert errors.Overloaded is type(done.error)


def test_attempts_of_the_settings() -> None:
    """They count where a call says nothing."""
    assert 3 == len(played([busy()] * 3, None, {"CLIP_RETRY_ATTEMPTS": "3"}).exchanges)


def test_timeout_of_a_call() -> None:
    """Attempts are given what is left of it, and none begins that it has no room for."""
    done = played([busy(20.0), busy(20.0), busy(20.0)], timeout_s=45.0)

    assert [45.0, 25.0, 5.0] == [exchange.timeout_s for exchange in done.exchanges]
    assert ["44000", "24000", "4500"] == [exchange.headers["X-Request-Timeout-Ms"] for exchange in done.exchanges]
    assert [20.0, 20.0] == done.pauses_s


def test_first_attempt_is_always_made() -> None:
    """However little time a call has, it asks once, for the least time that a socket can be given."""
    done = played([busy()], timeout_s=0.001)

    assert [0.1] == [exchange.timeout_s for exchange in done.exchanges]


def test_pause_that_lasted_too_long() -> None:
    """A machine that slept in between leaves the next attempt the least time, and there is none after it."""
    time = FakeTime()

    def oversleep(_effect: object) -> None:
        time.now_s += 1000

    policy = Policy.of(settings(), time.clock())
    done = play(policy.single(TEXT, 30.0, None), [busy(), oversleep, busy()])

    assert [30.0, 0.1] == [exchange.timeout_s for exchange in done.exchanges]
    assert errors.Overloaded is type(done.error)


@pytest.mark.parametrize(
    ("timeout_s", "max_retries", "named"),
    [
        pytest.param(0.0, None, "timeout", id="no time"),
        pytest.param(-1.0, None, "timeout", id="less than no time"),
        pytest.param(float("nan"), None, "timeout", id="no number"),
        pytest.param(float("inf"), None, "timeout", id="for ever"),
        pytest.param("5", None, "timeout", id="a string"),
        pytest.param(None, -1, "max_retries", id="less than no retries"),
    ],
)
def test_arguments_that_no_call_can_have(timeout_s: float | None, max_retries: int | None, named: str) -> None:
    """They are the caller's mistake, by name, before anything is sent; for health too."""
    done = played([], timeout_s=timeout_s, max_retries=max_retries)

    assert isinstance(done.error, ConfigurationError)
    assert named in done.error.message
    if timeout_s is not None:
        asked = play(Policy.of(settings()).health(timeout_s))
        assert isinstance(asked.error, ConfigurationError)


@pytest.mark.parametrize("timeout_s", [8.0, 20.0, 60.0, 200.0])
def test_no_other_job_is_begun_in_the_time_for_cancelling(timeout_s: float) -> None:
    """It would cost money, and end no sooner than the one that was cancelled."""

    def unfinished(exchange: object) -> HttpAnswer:
        assert isinstance(exchange, Exchange)
        return job("CANCELLED" if "/cancel/" in exchange.url else "IN_QUEUE")

    time = FakeTime()
    policy = Policy.of(settings(**SERVERLESS, RUNPOD_TIMEOUT_S="1000"), time.clock())
    done = play(policy.single(TEXT, timeout_s, 5), then=unfinished, time=time)

    assert errors.BackendTimeout is type(done.error)
    assert 1 == sum("/runsync" in said for said in done.said())
    assert "POST /cancel/job-1" == done.said()[-1]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)])
def test_interrupted_pause(interruption: BaseException) -> None:
    """Who gives up while a retry waits has asked for nothing that would have to be undone."""
    policy = Policy.of(settings(), FakeTime().clock())
    done = play(policy.single(TEXT, None, None), [busy(), interruption])

    assert done.error is interruption
    assert ["POST /v1/embed/text", "pause"] == done.said()


def test_polling() -> None:
    """A job is asked after with growing pauses, through polls that fail, until it ends."""
    done = played(
        [job("IN_QUEUE"), job("IN_QUEUE"), BROKEN, answered({}, 502), job("IN_PROGRESS"), _of_first], None, SERVERLESS
    )

    assert ["POST /runsync", *["pause", "GET /status/job-1"] * 5] == done.said()
    assert all(0.75 * 1.6**n <= pause_s / 0.25 <= 1.25 * 1.6**n for n, pause_s in enumerate(done.pauses_s))
    assert vector_of("x") == done.result.vector.tolist()


def _of_first(_effect: object) -> HttpAnswer:
    return job("COMPLETED", output=success({"text": "x", "request_id": "query-1", "normalize": True}))


def test_poll_that_is_refused() -> None:
    """By a key that has been revoked, say: nobody will ask after the job again, so it is cancelled."""
    done = played([job("IN_QUEUE"), answered({}, 403), job("CANCELLED")], None, SERVERLESS)

    assert errors.BackendMisconfigured is type(done.error)
    assert ["POST /runsync", "pause", "GET /status/job-1", "POST /cancel/job-1"] == done.said()


def test_job_that_is_not_known_any_more() -> None:
    """There is nothing to cancel."""
    done = played([job("IN_QUEUE"), answered({}, 404)], None, SERVERLESS, max_retries=0)

    assert errors.JobFailed is type(done.error)
    assert ["POST /runsync", "pause", "GET /status/job-1"] == done.said()


@pytest.mark.parametrize(
    ("timeout_s", "expected"),
    [
        pytest.param("200", "/runsync", id="longer than RunPod waits by itself"),
        pytest.param("30", "/runsync?wait=25000", id="time to cancel"),
        pytest.param("4", "/runsync?wait=3000", id="little of it"),
        pytest.param("1", "/runsync?wait=1000", id="the least that RunPod waits"),
    ],
)
def test_job_has_a_name_before_its_time_is_over(timeout_s: str, expected: str) -> None:
    """What has none cannot be cancelled."""
    given = SERVERLESS | {"RUNPOD_TIMEOUT_S": timeout_s, "CLIP_TOTAL_TIMEOUT_S": "600"}
    done = played([_of_first], None, given)

    first = done.effects[0]
    assert isinstance(first, Exchange)
    assert first.url.endswith(expected)


def test_pauses_of_a_patient_caller() -> None:
    """However often a call has been sent: a number of seconds."""
    policy = Policy.of(settings())

    assert 5.0 <= policy.lanes[0].policy.pause_s(100_000, []) <= 10.0


def test_polls_come_before_a_result_is_forgotten() -> None:
    """RunPod keeps one for a minute: no pause grows longer than a few seconds, however long a job takes."""
    time = FakeTime()
    done = played([job("IN_QUEUE")] * 60 + [_of_first], time, SERVERLESS | {"RUNPOD_TIMEOUT_S": "1000"}, timeout_s=900)

    assert 3.75 <= max(done.pauses_s) <= 6.25


@pytest.mark.parametrize(
    ("last", "times", "told"),
    [
        pytest.param(job("CANCELLED"), 1, "and was cancelled", id="cancelled"),
        pytest.param(BROKEN, 2, "and could not be cancelled", id="broken connection"),
        pytest.param(answered({}, 404), 1, "and could not be cancelled", id="gone"),
        pytest.param(errors.BackendTimeout("m"), 1, "and could not be cancelled", id="no answer"),
    ],
)
def test_job_that_takes_too_long(last: HttpAnswer | BaseException, times: int, told: str) -> None:
    """It is cancelled while there is time for that, once more if the connection was closed just then; the error says
    whether that worked.
    """

    def unfinished(exchange: object) -> HttpAnswer | BaseException:
        assert isinstance(exchange, Exchange)
        return last if "/cancel/" in exchange.url else job("IN_PROGRESS")

    time = FakeTime()
    policy = Policy.of(settings(**SERVERLESS, RUNPOD_TIMEOUT_S="30"), time.clock())
    done = play(policy.single(TEXT, None, 0), then=unfinished, time=time)

    assert errors.BackendTimeout is type(done.error)
    assert done.error.message.endswith(told)
    cancels = [said for said in done.said() if "cancel" in said]
    assert times * ["POST /cancel/job-1"] == cancels == done.said()[-times:]
    [*_, cancel] = done.effects
    assert isinstance(cancel, Exchange)
    assert 30.0 == pytest.approx(sum(done.pauses_s) + cancel.timeout_s)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)])
@pytest.mark.parametrize(
    "before",
    [
        pytest.param([job("IN_QUEUE")], id="in a pause"),
        pytest.param([job("IN_QUEUE"), None], id="in a poll"),
    ],
)
@pytest.mark.parametrize(
    "cancelled",
    [
        pytest.param([job("CANCELLED")], id="cancelled"),
        pytest.param([BROKEN, job("CANCELLED")], id="closed connection"),
        pytest.param([BROKEN, BROKEN], id="could not be cancelled"),
    ],
)
def test_interrupted_polling(interruption: BaseException, before: list[Answer], cancelled: list[Answer]) -> None:
    """Nobody waits for the job any more: it is cancelled, once more if the connection was closed just then, and then
    the interruption goes its way.
    """
    policy = Policy.of(settings(**SERVERLESS), FakeTime().clock())
    answers = [_nothing if answer is None else answer for answer in before]
    done = play(policy.single(TEXT, None, None), [*answers, interruption, *cancelled])

    assert done.error is interruption
    asked = ["POST /runsync", "pause", "GET /status/job-1"][: 1 + len(before)]
    assert [*asked, *len(cancelled) * ["POST /cancel/job-1"]] == done.said()


def _nothing(_effect: object) -> None:
    """What a pause comes to."""


def test_interrupted_before_the_job_has_a_name() -> None:
    """What has no name cannot be cancelled."""
    interruption = KeyboardInterrupt()
    policy = Policy.of(settings(**SERVERLESS), FakeTime().clock())
    done = play(policy.single(TEXT, None, None), [interruption])

    assert done.error is interruption
    assert ["POST /runsync"] == done.said()


def test_interrupted_twice() -> None:
    """A second Ctrl-C ends the cancelling too: it is the one that is raised."""
    second = KeyboardInterrupt()
    policy = Policy.of(settings(**SERVERLESS), FakeTime().clock())
    done = play(policy.single(TEXT, None, None), [job("IN_QUEUE"), KeyboardInterrupt(), second])

    assert done.error is second


@pytest.mark.parametrize(
    "answers", [pytest.param([], id="at once"), pytest.param([job("IN_QUEUE"), _nothing], id="in a poll")]
)
def test_flow_that_is_thrown_away(answers: list[Answer]) -> None:
    """Its driver is gone (GeneratorExit), so nothing may be asked any more: Python calls that an error."""
    policy = Policy.of(settings(**SERVERLESS), FakeTime().clock())
    flow = policy.single(TEXT, None, None)
    effect = next(flow)
    for answer in answers:
        effect = flow.send(answer(effect) if callable(answer) else answer)

    flow.close()

    with pytest.raises(StopIteration):
        next(flow)


BOTH = {**SERVERLESS, "CLIP_INFERENCE_BACKEND": "runpod_pod", "CLIP_FALLBACK_BACKEND": "runpod_serverless"}


def test_fallback() -> None:
    """The primary's attempts, its health for a fingerprint to compare with, then the fallback: nothing else."""
    done = played([BROKEN, ok, completed], None, BOTH)

    assert ["POST /v1/embed/text", "GET /health", "POST /runsync"] == done.said()
    assert ("runpod_serverless", vector_of("x")) == (done.result.backend, done.result.vector.tolist())


def test_gateway_whose_errors_look_like_the_services() -> None:
    """A 5xx goes to the fallback after its attempts, whatever JSON is in it."""
    bad = answered({"error": {"code": "502", "message": "Application failed to respond"}}, 502)
    done = played([bad, bad, ok, completed], None, BOTH | {"CLIP_RETRY_ATTEMPTS": "2"})

    assert ["POST /v1/embed/text", "pause", "POST /v1/embed/text", "GET /health", "POST /runsync"] == done.said()


def test_fallback_by_an_expected_fingerprint() -> None:
    """Where the settings say what to compare with, health is not asked."""
    done = played([BROKEN, completed], None, BOTH | {"CLIP_EXPECTED_FINGERPRINT": FINGERPRINT})

    assert ["POST /v1/embed/text", "POST /runsync"] == done.said()


def test_interrupted_fallback() -> None:
    """A job of the fallback is cancelled as any other; the primary's failure does not hide the interruption."""
    interruption = asyncio.CancelledError()
    chosen = settings(**(BOTH | {"CLIP_EXPECTED_FINGERPRINT": FINGERPRINT}))
    policy = Policy.of(chosen, FakeTime().clock())
    done = play(policy.single(TEXT, None, None), [BROKEN, job("IN_QUEUE"), interruption, job("CANCELLED")])

    assert done.error is interruption
    assert "POST /cancel/job-1" == done.said()[-1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(None, False, id="no body"),
        pytest.param({"text": "x" * 10_000}, False, id="text"),
        pytest.param({"image_b64": "x" * 65_536}, False, id="small image"),
        pytest.param({"image_b64": "x" * 65_537}, True, id="image"),
        pytest.param({"items": [{"image_url": "u"}, {"image_b64": "x" * 65_537}]}, True, id="in a batch"),
        pytest.param({"input": {"path": "p", "image_b64": "x" * 65_537}}, True, id="in a job"),
        pytest.param({"input": {"items": [{"image_b64": "x" * 65_537}]}}, True, id="in a job's batch"),
        pytest.param({"input": {"path": "/health"}}, False, id="health as a job"),
    ],
)
def test_heavy_bodies(body: Body | None, expected: bool) -> None:
    """Those that hold an image, wherever in the envelope: an event loop does not write them itself."""
    assert expected is Exchange("POST", "http://a/", 1.0, body).is_heavy


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("7", 7.0, id="seconds"),
        pytest.param(" 7 ", 7.0, id="seconds in spaces"),
        pytest.param("0", 0.0, id="at once"),
        pytest.param("-1", None, id="in the past"),
        pytest.param("1.5", None, id="fraction"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", None, id="date"),
        pytest.param("\N{ARABIC-INDIC DIGIT SEVEN}", None, id="another script's digit"),
        pytest.param("9" * 5000, None, id="without end"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    """Whole seconds, as the service and RunPod send them; all else counts as absent."""
    assert expected == HttpAnswer.of(503, b"", {"Retry-After": value}).retry_after_s
    assert None is HttpAnswer.of(503, b"", {}).retry_after_s


@pytest.mark.parametrize(
    ("timeout_s", "max_retries"), [pytest.param(-1.0, None, id="timeout"), pytest.param(None, -1, id="max_retries")]
)
def test_many_with_arguments_that_no_call_can_have(timeout_s: float | None, max_retries: int | None) -> None:
    """The caller's own mistake is raised, not given back as the error of each item."""
    with ClipClient(settings()) as client, pytest.raises(ConfigurationError):
        client.embed_texts(["x"], timeout=timeout_s, max_retries=max_retries)
