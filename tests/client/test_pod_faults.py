"""What can go wrong on the way to a pod, on real sockets: each mishap has its own typed error."""

import json
import multiprocessing
import socket
from contextlib import ExitStack
from time import monotonic

import numpy as np
import pytest
from clip_embedding_client import ClipClient, ClipClientError, ImageItem, RetryableError, errors
from clip_embedding_client.clock import Clock
from clip_embedding_client.threads import HttpChannel

from tests.client.scripted import (
    DIM,
    FINGERPRINT,
    SECRET,
    Answer,
    Body,
    FakeTime,
    Reply,
    Script,
    Seen,
    answer,
    error_reply,
    json_reply,
    page,
    scripted_server,
    settings,
    success,
    vector_of,
)
from tools.testbed.loopback import QuietHandler, base_url, serving

ONCE = {"CLIP_RETRY_ATTEMPTS": "1"}
# No answer will come; whoever waits for one must have time for it.
NOT_LONG = {"CLIP_POD_TIMEOUT_S": "0.4"}
SOON_S = 60.0


def pod_client(script: Script, time: FakeTime | None = None, /, **variables: str) -> ClipClient:
    chosen = settings(CLIP_POD_BASE_URL=script.base_url, **variables)
    return ClipClient(chosen, clock=(time or FakeTime()).clock())


def wrong(**members: object) -> Answer:
    """A success that is wrong in some members."""
    return lambda seen: json_reply(success(seen.body) | members)


def test_success() -> None:
    """A vector comes with everything that the answer says of it."""
    with scripted_server(answer) as script, pod_client(script) as client:
        embedding = client.embed_text("a red circle", request_id="query-1", normalize=False)

    assert ["POST /v1/embed/text"] == script.paths()
    assert vector_of("a red circle") == embedding.vector.tolist()
    assert (np.dtype(np.float32), (DIM,)) == (embedding.vector.dtype, embedding.vector.shape)
    assert ("query-1", FINGERPRINT, False, {"total_ms": 1.0}, False, "runpod_pod") == (
        embedding.request_id,
        embedding.fingerprint,
        embedding.normalized,
        embedding.timings,
        embedding.truncated,
        embedding.backend,
    )


def test_vector_as_numbers() -> None:
    """A service that answers `float` in spite of what was asked is understood too."""
    with scripted_server(wrong(embedding=[1, 2.5, -3, 0.0])) as script, pod_client(script) as client:
        assert [1.0, 2.5, -3.0, 0.0] == client.embed_text("x", normalize=False).vector.tolist()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(Reply(200, b'{"request', reset=True), errors.ConnectionFailed, id="reset in the body"),
        pytest.param(Reply(200, b'{"request', stall=True), errors.BackendTimeout, id="body that stalls"),
        pytest.param(Reply(200, b'{"request', trickle=True), errors.BackendTimeout, id="body that trickles"),
        pytest.param(Reply(drip=True), errors.BackendTimeout, id="headers that drip"),
        pytest.param(page(502), errors.GatewayFailed, id="502 page"),
        pytest.param(page(503), errors.GatewayFailed, id="503 page"),
        pytest.param(page(524), errors.GatewayFailed, id="524 page"),
        pytest.param(page(429), errors.RateLimited, id="429 page"),
        pytest.param(page(404), errors.BackendMisconfigured, id="404 page"),
        pytest.param(page(403), errors.BackendMisconfigured, id="403 page"),
        pytest.param(page(200), errors.UnreadableResponse, id="200 page"),
        pytest.param(Reply(200, b""), errors.UnreadableResponse, id="empty 200"),
        pytest.param(Reply(204, b""), errors.UnreadableResponse, id="204"),
        pytest.param(Reply(200, b"[" * 100_000), errors.UnreadableResponse, id="huge nesting"),
        pytest.param(
            Reply(302, headers={"Location": "http://127.0.0.1:9/"}), errors.BackendMisconfigured, id="redirect"
        ),
        pytest.param(json_reply([1, 2]), errors.WrongResponse, id="list"),
        pytest.param(json_reply({"ok": True}), errors.WrongResponse, id="another object"),
        pytest.param(wrong(dim=DIM + 1), errors.WrongResponse, id="wrong dim"),
        pytest.param(wrong(embedding="AAAA"), errors.WrongResponse, id="base64 of three bytes"),
        pytest.param(wrong(embedding="~~~~"), errors.WrongResponse, id="not base64"),
        pytest.param(wrong(embedding="AADAfwAAgH8AAAAAAAAAAA=="), errors.WrongResponse, id="base64 of NaN"),
        pytest.param(wrong(embedding=[1.0, float("nan"), 0.0, 0.0]), errors.WrongResponse, id="NaN"),
        pytest.param(wrong(embedding=[1.0, 1e300, 0.0, 0.0]), errors.WrongResponse, id="beyond float32"),
        pytest.param(wrong(request_id="another"), errors.WrongResponse, id="another request's answer"),
        pytest.param(wrong(fingerprint=""), errors.WrongResponse, id="no fingerprint"),
        pytest.param(error_reply("OVERLOADED", 503, retryable=True), errors.Overloaded, id="overloaded"),
        pytest.param(error_reply("AUTH_FAILED", 401, retryable=False), errors.AuthFailed, id="auth failed"),
        pytest.param(error_reply("NEW_CODE", 418, retryable=False), errors.PermanentError, id="code of the future"),
    ],
)
def test_mishap(reply: Answer, expected: type[ClipClientError]) -> None:
    """Every mishap is the typed error that tells what to do about it, and shows nothing private."""
    patience = NOT_LONG if expected is errors.BackendTimeout else {}
    with scripted_server(reply) as script, pod_client(script, **ONCE, **patience) as client:
        with pytest.raises(ClipClientError) as caught:
            client.embed_image("https://example.com/a.jpg?token=private")
        # Whose client has gone already is read all the same.
        until_s = monotonic() + SOON_S
        while not script.seen:
            assert monotonic() < until_s

    assert expected is type(caught.value)
    assert not {"private", SECRET, script.seen[0].body["auth"]["sig"]} & set(str(caught.value).split())
    assert "private" not in str(caught.value)
    assert 1 == len(script.seen)


def test_nobody_listens() -> None:
    """A refused connection is told apart from a broken one."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        client = ClipClient(settings(CLIP_POD_BASE_URL=url, **ONCE))
        with client, pytest.raises(errors.ConnectionFailed) as caught:
            client.embed_text("x")

    assert "nothing takes connections there" == caught.value.message


def test_retries_until_it_works() -> None:
    """What can pass is sent again; the pause is at least what the server asked for."""
    time = FakeTime()
    replies: list[Answer] = [
        page(502),
        error_reply("RATE_LIMITED", 429, retryable=True, Retry_After="7"),
        Reply(200, b""),
        answer,
    ]
    with scripted_server(*replies) as script, pod_client(script, time) as client:
        embedding = client.embed_text("x")

    assert vector_of("x") == embedding.vector.tolist()
    assert 4 == len(script.seen)
    assert [True, True, True] == [0.25 <= time.slept[0] <= 0.5, 7.0 == time.slept[1], 1.0 <= time.slept[2] <= 2.0]


def test_every_attempt_is_signed_anew() -> None:
    """A retry carries the time of that retry: the first signature may have left the window."""
    time = FakeTime()
    replies: list[Answer] = [error_reply("OVERLOADED", 503, retryable=True, Retry_After="20"), answer]
    with scripted_server(*replies) as script, pod_client(script, time) as client:
        client.embed_text("x")

    first, second = (seen.body["auth"] for seen in script.seen)
    assert (1_703_001_234, 1_703_001_254) == (first["ts"], second["ts"])
    assert first["sig"] != second["sig"]
    assert script.seen[0].body["request_id"] == script.seen[1].body["request_id"]


def test_retry_after_has_a_cap() -> None:
    """A server cannot put a worker to sleep for an hour."""
    time = FakeTime()
    greedy = error_reply("OVERLOADED", 503, retryable=True, Retry_After="3600")
    with scripted_server(greedy, answer) as script, pod_client(script, time) as client:
        client.embed_text("x")

    assert [30.0] == time.slept


@pytest.mark.parametrize(
    ("variables", "requests"),
    [
        pytest.param({"CLIP_RETRY_ATTEMPTS": "3"}, 3, id="attempts"),
        pytest.param({"CLIP_RETRY_ATTEMPTS": "9", "CLIP_TOTAL_TIMEOUT_S": "41"}, 3, id="seconds"),
    ],
)
def test_retries_end(variables: dict[str, str], requests: int) -> None:
    """Attempts and seconds are both bounded; the last error is raised as it is."""
    time = FakeTime()
    reply = error_reply("OVERLOADED", 503, retryable=True, Retry_After="20")
    with (
        scripted_server(reply) as script,
        pod_client(script, time, **variables) as client,
        pytest.raises(errors.Overloaded) as caught,
    ):
        client.embed_text("x")

    assert requests == len(script.seen)
    assert ("from-server", 20.0) == (caught.value.request_id, caught.value.retry_after_s)


def test_permanent_errors_are_not_sent_again() -> None:
    """The same request would be refused again."""
    with (
        scripted_server(error_reply("INVALID_IMAGE", 422, retryable=False)) as script,
        pod_client(script) as client,
        pytest.raises(errors.InvalidImage),
    ):
        client.embed_image("https://example.com/a.jpg")

    assert 1 == len(script.seen)


@pytest.mark.parametrize(
    ("url", "request_id"),
    [
        pytest.param("", None, id="empty URL"),
        pytest.param("http://a/" + "x" * 4096, None, id="long URL"),
        pytest.param("http://a/\ud800", None, id="lone surrogate"),
        pytest.param("http://a/", "x" * 129, id="long id"),
        pytest.param("http://a/", "a\nb", id="id with a line break"),
    ],
)
def test_what_is_sure_to_be_refused_is_not_sent(url: str, request_id: str | None) -> None:
    """A single bad item would refuse its whole batch, so it is found here."""
    with scripted_server(answer) as script, pod_client(script) as client, pytest.raises(errors.ValidationFailed):
        client.embed_image(url, request_id=request_id)

    assert [] == script.seen


def test_unsigned_requests_have_no_auth() -> None:
    """Without a secret, where that is allowed, nothing stands in for a signature."""
    variables = {"EMBEDDING_HMAC_SECRET": "", "ALLOW_INSECURE_AUTH": "1"}
    with scripted_server(answer) as script, pod_client(script, **variables) as client:
        client.embed_text("x")

    assert "auth" not in script.seen[0].body


@pytest.mark.parametrize("status", [200, 503])
def test_health(status: int) -> None:
    """A pod that loads says so with 503, and that is an answer."""
    body: Body = {"status": "loading", "fingerprint": None, "dim": None, "insecure_auth": True, "new": 1}
    with scripted_server(json_reply(body, status)) as script, pod_client(script) as client:
        health = client.health()

    assert ["GET /health"] == script.paths()
    assert ("loading", False, None, True, body) == (
        health.status,
        health.ready,
        health.fingerprint,
        health.insecure_auth,
        health.body,
    )


def test_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment never see a signed body."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with scripted_server(answer) as script, pod_client(script, **ONCE) as client:
        client.embed_text("x")

    assert 1 == len(script.seen)


def _ask_in_child(client: ClipClient, queue: "multiprocessing.Queue[list[float]]") -> None:
    queue.put(client.embed_text("of the child").vector.tolist())


def test_forked_process_has_its_own_connections() -> None:
    """One that both read from would swap their answers; and the parent's own goes on, whatever the child does."""
    peers: list[tuple[int, str]] = []

    class Kept(QuietHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            peers.append((self.client_address[1], body["text"]))
            data = json.dumps(success(body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[float]] = context.Queue()
    with serving(Kept) as httpd, ClipClient(settings(CLIP_POD_BASE_URL=base_url(httpd), **ONCE)) as client:
        client.embed_text("before")
        child = context.Process(target=_ask_in_child, args=(client, queue))
        child.start()
        of_child = queue.get(timeout=SOON_S)
        child.join(SOON_S)
        client.embed_text("after")

    of_parent = {port for port, text in peers if text in ("before", "after")}
    assert ["before", "of the child", "after"] == [text for _, text in peers]
    assert (1, 2) == (len(of_parent), len({port for port, _ in peers}))
    assert vector_of("of the child") == of_child


def test_closed_client_sends_nothing_again() -> None:
    """A call that waits for its next attempt ends instead of it."""
    with scripted_server(error_reply("OVERLOADED", 503, retryable=True)) as script:
        client = ClipClient(
            settings(CLIP_POD_BASE_URL=script.base_url), clock=Clock(sleep=lambda _seconds, _left: client.close())
        )
        with pytest.raises(errors.ClientClosed):
            client.embed_text("x")

    assert 1 == len(script.seen)


def test_closed_client_cancels_its_jobs() -> None:
    """One that is asked after costs money, and nobody waits for it any more."""
    with scripted_server(json_reply({"id": "job-1", "status": "IN_QUEUE"})) as script:
        given = settings(
            CLIP_INFERENCE_BACKEND="runpod_serverless", RUNPOD_BASE_URL=script.base_url, RUNPOD_CLIP_ENDPOINT_ID="."
        )
        client = ClipClient(given, clock=Clock(sleep=lambda _seconds, _left: client.close()))
        with pytest.raises(errors.ClientClosed):
            client.embed_text("x", timeout=200)

    assert ["POST /runsync", "POST /cancel/job-1"] == script.paths()


def test_idle_connections_are_bounded() -> None:
    """Those of a burst of threads are not kept for good."""
    channel = HttpChannel(connect_timeout_s=SOON_S, clock=Clock())
    with ExitStack() as burst:
        for _ in range(70):
            burst.enter_context(channel._session())

    assert 64 == len(channel._idle.sessions)


def test_item_errors_are_tried_again_by_themselves() -> None:
    """In a batch, only the items whose error can pass are sent again, and never more often than any call."""

    def results(**failing: tuple[str, bool]) -> Answer:
        """A success of all items but those in `failing`, by request id."""

        def reply(seen: Seen) -> Reply:
            body = success(seen.body)
            for result in body["results"]:
                if result["request_id"] in failing:
                    del result["embedding"]
                    code, retryable = failing[result["request_id"]]
                    result["error"] = {"code": code, "message": "m", "retryable": retryable}
            return json_reply(body)

        return reply

    items = [ImageItem(f"http://a/{name}.jpg", request_id=name) for name in ("one", "two", "three", "four")]
    replies = [
        results(two=("DOWNLOAD_TIMEOUT", True), three=("INVALID_IMAGE", False), four=("INFERENCE_ERROR", True)),
        results(four=("INFERENCE_ERROR", True)),
    ]
    with scripted_server(*replies) as script, pod_client(script, CLIP_RETRY_ATTEMPTS="3") as client:
        one, two, three, four = client.embed_images(items)

    sent = [[item["request_id"] for item in seen.body["items"]] for seen in script.seen]
    assert [["one", "two", "three", "four"], ["two", "four"], ["four"]] == sent
    assert ["one", "two"] == [one.request_id, two.request_id]
    assert (errors.InvalidImage, errors.InferenceFailed) == (type(three), type(four))
    assert isinstance(four, RetryableError)
