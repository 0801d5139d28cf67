"""The RunPod REST API, scripted on a real socket: queued, running, failed, lost, refused."""

import json

import pytest
from clip_embedding_client import ClipClient, ClipClientError, errors
from clip_embedding_client.backends.serverless import endpoint_url

from tests.client.scripted import (
    SECRET,
    Answer,
    Body,
    FakeTime,
    Reply,
    Script,
    Seen,
    json_reply,
    page,
    scripted_server,
    settings,
    success,
    vector_of,
)

KEY = "rp-key"


def serverless_client(script: Script, time: FakeTime | None = None, /, **variables: str) -> ClipClient:
    given = {
        "CLIP_INFERENCE_BACKEND": "runpod_serverless",
        "RUNPOD_BASE_URL": script.base_url + "/v2",
        "RUNPOD_CLIP_ENDPOINT_ID": "abc123",
        "RUNPOD_API_KEY": KEY,
        "CLIP_RETRY_ATTEMPTS": "1",
    }
    return ClipClient(settings(**(given | variables)), clock=(time or FakeTime()).clock())


def completed(seen: Seen) -> Reply:
    return json_reply({"id": "job-1", "status": "COMPLETED", "output": success(seen.body["input"])})


def job(status: str, **members: object) -> Reply:
    return json_reply({"id": "job-1", "status": status, **members})


def failed(error: object) -> Reply:
    return job("FAILED", error=error if isinstance(error, str) else json.dumps(error))


def completed_later(script: Script) -> Reply:
    """The finished job of what was asked first."""
    return completed(script.seen[0])


def test_completed_at_once() -> None:
    """The body travels as the job's input with its path, under the endpoint, with the key."""
    with scripted_server(completed) as script, serverless_client(script) as client:
        embedding = client.embed_text("x", request_id="query-1")

    [seen] = script.seen
    assert ("POST", "/v2/abc123/runsync", f"Bearer {KEY}") == (seen.method, seen.path, seen.headers["Authorization"])
    assert {"path", "text", "request_id", "normalize", "encoding_format", "auth", "timeout_ms"} == seen.body[
        "input"
    ].keys()
    assert ("/v1/embed/text", "base64") == (seen.body["input"]["path"], seen.body["input"]["encoding_format"])
    assert (vector_of("x"), "query-1", "runpod_serverless") == (
        embedding.vector.tolist(),
        embedding.request_id,
        embedding.backend,
    )


def test_local_server_of_the_sdk() -> None:
    """The endpoint id `.` means no prefix; loopback needs no key."""
    with scripted_server(completed) as script:
        variables = {"RUNPOD_BASE_URL": script.base_url, "RUNPOD_CLIP_ENDPOINT_ID": ".", "RUNPOD_API_KEY": ""}
        with serverless_client(script, **variables) as client:
            client.embed_text("x")

    assert ["POST /runsync"] == script.paths()
    assert "Authorization" not in script.seen[0].headers


@pytest.mark.parametrize(
    ("endpoint_id", "expected"),
    [pytest.param("abc", "http://h/v2/abc", id="endpoint"), pytest.param(".", "http://h/v2", id="local server")],
)
def test_endpoint_url(endpoint_id: str, expected: str) -> None:
    """The dot is no part of the URL, and it is not left to a library to take it out."""
    assert expected == endpoint_url("http://h/v2", endpoint_id)


def test_queued_then_running_then_completed() -> None:
    """A job that is not done yet is asked after, with growing pauses, through failed polls too."""
    time = FakeTime()
    with scripted_server() as script:
        script.answers = [
            job("IN_QUEUE"),
            job("IN_QUEUE"),
            page(502),
            page(429),
            job("IN_PROGRESS"),
            lambda _seen: completed_later(script),
        ]
        with serverless_client(script, time) as client:
            embedding = client.embed_text("x")

    assert vector_of("x") == embedding.vector.tolist()
    assert ["POST /v2/abc123/runsync", *["GET /v2/abc123/status/job-1"] * 5] == script.paths()
    assert {f"Bearer {KEY}"} == {seen.headers["Authorization"] for seen in script.seen}
    assert time.slept[0] < time.slept[4]


@pytest.mark.parametrize("status", ["RUNNING", "IN_PROGRESS", "PAUSED", ""])
def test_only_an_end_that_is_known_ends_a_job(status: str) -> None:
    """RunPod has several words for a job that is on its way, and may add more: each is waited for."""
    with scripted_server() as script:
        script.answers = [job(status), job(status), lambda _seen: completed_later(script)]
        with serverless_client(script) as client:
            embedding = client.embed_text("x")

    assert vector_of("x") == embedding.vector.tolist()
    assert ["POST /v2/abc123/runsync", *["GET /v2/abc123/status/job-1"] * 2] == script.paths()


def test_poll_without_a_status() -> None:
    """Nobody knows what became of the job: it is cancelled, and the answer is wrong."""
    with (
        scripted_server(job("IN_QUEUE"), json_reply({"id": "job-1", "status": ["COMPLETED"]})) as script,
        serverless_client(script) as client,
        pytest.raises(errors.WrongResponse),
    ):
        client.embed_text("x")

    assert "POST /v2/abc123/cancel/job-1" == script.paths()[-1]


@pytest.mark.parametrize("status", ["IN_PROGRESS", "RUNNING", "PAUSED"])
def test_timeout_cancels_the_job(status: str) -> None:
    """A job that nobody waits for any more is cancelled, once, before the time is over."""
    time = FakeTime()
    with (
        scripted_server(job(status)) as script,
        serverless_client(script, time, RUNPOD_TIMEOUT_S="30") as client,
        pytest.raises(errors.BackendTimeout) as caught,
    ):
        client.embed_text("x")

    assert "POST /v2/abc123/cancel/job-1" == script.paths()[-1]
    assert 1 == sum("cancel" in path for path in script.paths())
    assert "job job-1 did not end within 30.0 s and was cancelled" == caught.value.message
    assert 25.0 == pytest.approx(sum(time.slept))


CONTRACT_ERROR: Body = {"code": "URL_NOT_ALLOWED", "message": "not allowed", "request_id": "r-1", "retryable": False}


@pytest.mark.parametrize(
    ("reply", "expected", "named"),
    [
        pytest.param(failed(CONTRACT_ERROR), errors.UrlNotAllowed, "not allowed", id="the handler's own error"),
        pytest.param(
            failed(CONTRACT_ERROR | {"code": "NOT_READY", "retryable": True}), errors.NotReady, "", id="not ready"
        ),
        pytest.param(failed("Traceback ... https://a/?token=private"), errors.JobFailed, "job-1", id="a traceback"),
        pytest.param(failed({"error_type": "private", "hostname": "private"}), errors.JobFailed, "job-1", id="JSON"),
        pytest.param(job("FAILED"), errors.JobFailed, "job-1", id="no error at all"),
        pytest.param(job("TIMED_OUT"), errors.JobTimedOut, "job-1", id="timed out"),
        pytest.param(job("CANCELLED"), errors.JobCancelled, "job-1", id="cancelled"),
        pytest.param(job("COMPLETED"), errors.WrongResponse, "output", id="no output"),
        pytest.param(json_reply({"status": "PAUSED"}), errors.WrongResponse, "job", id="unknown status and no id"),
        pytest.param(json_reply({"id": "job-1"}), errors.WrongResponse, "status", id="no status"),
        pytest.param(
            json_reply({"id": "job-1", "status": ["IN_QUEUE"]}), errors.WrongResponse, "status", id="list as status"
        ),
        pytest.param(json_reply([]), errors.WrongResponse, "job", id="not a job"),
        pytest.param(json_reply({"status": "IN_QUEUE", "id": "../x"}), errors.WrongResponse, "job", id="path as id"),
        pytest.param(
            json_reply({"status": "IN_QUEUE", "id": "\u0661"}), errors.WrongResponse, "job", id="another script's digit"
        ),
        pytest.param(
            json_reply({"status": "IN_QUEUE", "id": "x" * 129}), errors.WrongResponse, "job", id="id too long"
        ),
        pytest.param(
            json_reply({"status": "TIMED_OUT", "id": "\x1b[2J"}), errors.JobTimedOut, "\\x1b[2J", id="id with an escape"
        ),
        pytest.param(
            json_reply({"status": "CANCELLED", "id": "\n"}), errors.JobCancelled, "\\n", id="id with a line break"
        ),
        pytest.param(json_reply({"status": "FAILED", "id": "x" * 999}), errors.JobFailed, "…", id="id without end"),
        pytest.param(json_reply({}, 401), errors.BackendMisconfigured, "RUNPOD_API_KEY", id="401"),
        pytest.param(json_reply({}, 404), errors.BackendMisconfigured, "RUNPOD_CLIP_ENDPOINT_ID", id="404"),
        pytest.param(json_reply({}, 429, Retry_After="3"), errors.RateLimited, "429", id="429"),
        pytest.param(page(502), errors.GatewayFailed, "502", id="502"),
        pytest.param(Reply(200, b""), errors.UnreadableResponse, "empty", id="empty"),
        pytest.param(
            json_reply({}, Content_Encoding="gzip"), errors.UnreadableResponse, "content encoding", id="encoded"
        ),
    ],
)
def test_mishap(reply: Answer, expected: type[ClipClientError], named: str) -> None:
    """Every end of a job is a typed error; the text of a crash is not passed on."""
    with (
        scripted_server(reply) as script,
        serverless_client(script) as client,
        pytest.raises(ClipClientError) as caught,
    ):
        client.embed_text("x")

    assert expected is type(caught.value)
    assert named in caught.value.message
    assert caught.value.message.isprintable()
    assert not any(hidden in str(caught.value) for hidden in (KEY, SECRET, "private"))


def test_result_that_is_gone() -> None:
    """A result lives one minute; a status that is not known any more is a lost job, to be sent again."""
    with (
        scripted_server(job("IN_PROGRESS"), page(404), completed) as script,
        serverless_client(script, CLIP_RETRY_ATTEMPTS="2") as client,
    ):
        embedding = client.embed_text("x")

    assert vector_of("x") == embedding.vector.tolist()
    assert ["POST /v2/abc123/runsync", "GET /v2/abc123/status/job-1", "POST /v2/abc123/runsync"] == script.paths()


def test_retry_after_of_the_api() -> None:
    """429 over the rate is sent again after the seconds it names."""
    time = FakeTime()
    with (
        scripted_server(json_reply({}, 429, Retry_After="9"), completed) as script,
        serverless_client(script, time, CLIP_RETRY_ATTEMPTS="2") as client,
    ):
        client.embed_text("x")

    assert [9.0] == time.slept


def test_health_is_a_job() -> None:
    """Health needs no signature, and answers the same body as a pod's."""
    reply = job("COMPLETED", output={"status": "ok", "fingerprint": "f"})
    with scripted_server(reply) as script, serverless_client(script) as client:
        health = client.health()

    assert [{"input": {"path": "/health"}}] == [seen.body for seen in script.seen]
    assert ("ok", "f", "runpod_serverless") == (health.status, health.fingerprint, health.backend)
