"""What the client takes for a vector, and what of a stranger's words gets through."""

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from clip_embedding_client import ClipClient, Embedding, Health, TextItem, errors
from clip_embedding_client.effects import HttpAnswer
from clip_embedding_client.errors import (
    MAX_CODE_CHARACTERS,
    MAX_ID_CHARACTERS,
    MAX_MESSAGE_CHARACTERS,
    error_from_wire,
    printable,
)
from clip_embedding_client.fingerprints import Dimensions
from clip_embedding_client.policy import Policy
from clip_embedding_client.responses import read_batch, read_health, read_single
from hypothesis import given
from hypothesis import strategies as st

from tests.client.flows import play
from tests.client.scripted import (
    DIM,
    FINGERPRINT,
    Body,
    FakeBackend,
    FakeTime,
    client_of,
    json_reply,
    scripted_server,
    settings,
    success,
)
from tests.logs import written_here

ITEM = TextItem("x", request_id="scene-1")
RAW = TextItem("x", request_id="scene-1", normalize=False)
HALF = [0.5, 0.5, 0.5, 0.5]


def wire(embedding: object = HALF, **members: object) -> Body:
    body = {"request_id": "scene-1", "embedding": embedding, "dim": DIM, "normalized": True, "fingerprint": FINGERPRINT}
    return body | members


def client_over(*backends: FakeBackend, **given: str) -> ClipClient:
    return client_of(backends, **({"CLIP_RETRY_ATTEMPTS": "1"} | given))


@pytest.mark.parametrize(
    ("item", "body", "cause"),
    [
        pytest.param(ITEM, wire(normalized=False), "not what was asked", id="not normalised, against the request"),
        pytest.param(RAW, wire(normalized=True), "not what was asked", id="normalised, against the request"),
        pytest.param(ITEM, wire([0.6, 0.5, 0.5, 0.5]), "norm is 1.054", id="norm too large"),
        pytest.param(ITEM, wire([0.4, 0.5, 0.5, 0.5]), "norm is 0.9539", id="norm too small"),
        pytest.param(ITEM, wire([0.0] * 4), "zero", id="zero"),
        pytest.param(RAW, wire([0.0] * 4, normalized=False), "zero", id="zero, not normalised"),
        pytest.param(RAW, wire([1e-30] * 4, normalized=False), "too short", id="squares that are zero in float32"),
        pytest.param(RAW, wire([3e38] * 4, normalized=False), "too long", id="squares that are infinite in float32"),
        pytest.param(RAW, wire([1, 2, 3, float("inf")], normalized=False), "not finite", id="not finite"),
        pytest.param(ITEM, wire(dim=3), "4 numbers, not 3", id="another dim than the vector has"),
        pytest.param(ITEM, wire(fingerprint="a\x1b[31m"), "fingerprint", id="fingerprint that is not printable"),
        pytest.param(ITEM, wire(fingerprint="a" * 257), "fingerprint", id="fingerprint without end"),
        pytest.param(ITEM, wire(model_name="a\u202eb"), "model_name", id="model's name that turns the text"),
        pytest.param(ITEM, wire(timings={"a\nb": 1.0}), "timings", id="step that is not printable"),
    ],
)
def test_what_is_no_answer_to_the_request(item: TextItem, body: Body, cause: str) -> None:
    """A vector that cannot be what was asked for is refused by name, alone and in a batch."""
    batch = {**body, "results": [body]}

    for read in (lambda: read_single(body, item, "pod"), lambda: read_batch(batch, [item], "pod")):
        with pytest.raises(errors.WrongResponse, match=cause) as caught:
            read()
        assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("item", "body"),
    [
        pytest.param(ITEM, wire([0.504, 0.504, 0.504, 0.504]), id="norm of a float16 engine"),
        pytest.param(RAW, wire([3.0, 4.0, 0.0, 0.0], normalized=False), id="not normalised"),
        pytest.param(RAW, wire([1e-18] * 4, normalized=False), id="short, but not in vain"),
        pytest.param(RAW, wire([9e18, 9e18, 0, 0], normalized=False), id="long, but not in vain"),
    ],
)
def test_what_is_a_vector(item: TextItem, body: Body) -> None:
    """The checks refuse what would become a wrong vector, and no more."""
    expected = np.asarray(body["embedding"], dtype=np.float32).tolist()

    assert expected == read_single(body, item, "pod").vector.tolist()


@given(
    numbers=st.lists(st.floats(width=32), min_size=DIM, max_size=DIM),
    normalized=st.booleans(),
    item=st.sampled_from([ITEM, RAW]),
)
def test_whatever_the_numbers(numbers: list[float], normalized: bool, item: TextItem) -> None:
    """A vector that gets through is of use: normalising it in float32 gives norm 1. All else is `WrongResponse`."""
    encoded = base64.b64encode(np.asarray(numbers, dtype="<f4").tobytes()).decode()
    try:
        embedding = read_single(wire(encoded, normalized=normalized), item, "pod")
    except errors.WrongResponse:
        return

    unit = embedding.vector / np.linalg.norm(embedding.vector)
    assert 1.0 == pytest.approx(float(np.linalg.norm(unit)), abs=1e-3)
    assert item.normalize is embedding.normalized


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({}, {}, id="absent"),
        pytest.param({"timings": None}, {}, id="null"),
        pytest.param({"timings": {"download_ms": None, "total_ms": 2}}, {"total_ms": 2}, id="step that was not taken"),
        pytest.param({"timings": {"total_ms": 0.1}, "cached": True}, {"total_ms": 0.1}, id="from a cache"),
    ],
)
def test_timings_that_are_not_there(members: Body, expected: Mapping[str, float]) -> None:
    """A text has no download, and what was not computed no steps at all."""
    assert expected == read_single(wire(**members), ITEM, "pod").timings
    batch = {"results": [wire(**members)], "fingerprint": FINGERPRINT, "batch_timings": None}
    [result] = read_batch(batch, [ITEM], "pod")
    assert isinstance(result, Embedding)
    assert expected == result.timings


def of_dim(dim: int) -> Any:  # noqa: ANN401
    """A service whose vectors have `dim` dimensions."""

    def respond(body: Body) -> Body:
        vector = [1.0, *[0.0] * (dim - 1)]
        if "items" not in body:
            return success(body) | {"embedding": vector, "dim": dim}
        answer = success(body)
        return answer | {"results": [result | {"embedding": vector, "dim": dim} for result in answer["results"]]}

    return respond


def test_one_fingerprint_has_one_number_of_dimensions() -> None:
    """The first vector of a fingerprint is the reference, for texts and images, alone and in batches."""
    backend = FakeBackend()
    client = client_over(backend)
    client.embed_text("x")
    backend.respond = of_dim(3)

    with pytest.raises(errors.WrongResponse, match="3 dimensions"):
        client.embed_text("x")
    [result] = client.embed_images(["http://a/"])
    assert isinstance(result, errors.WrongResponse)
    # A rollout: another fingerprint may have other dimensions.
    backend.respond = lambda body: of_dim(3)(body) | {"fingerprint": "b" * 16}
    assert (3,) == client.embed_text("x").vector.shape


def test_dimensions_within_a_batch() -> None:
    """Two lengths in one answer are no answer, even if it is the first."""

    def respond(body: Body) -> Body:
        answer = success(body)
        answer["results"][1] |= {"embedding": [1.0, 0.0], "dim": 2}
        return answer

    results = client_over(FakeBackend(respond=respond)).embed_images(["http://a/1", "http://a/2"])

    assert [errors.WrongResponse] * 2 == [type(result) for result in results]


def test_dimensions_of_the_fallback() -> None:
    """The other backend's vectors are measured by the primary's, and by what health says; those may come later."""
    primary, fallback = FakeBackend(error=errors.Overloaded("m")), FakeBackend("runpod_serverless", respond=of_dim(3))

    with pytest.raises(errors.Overloaded) as caught:
        client_over(primary, fallback).embed_text("x")

    assert isinstance(caught.value.__cause__, errors.WrongResponse)
    assert "3 dimensions" in caught.value.__cause__.message


def test_dimensions_are_not_remembered_for_ever() -> None:
    """A backend that has a new fingerprint for each answer fills no memory; the latest are still checked."""
    dimensions = Dimensions()
    for number in range(1000):
        dimensions.check(f"fingerprint-{number}", 4)

    with pytest.raises(errors.WrongResponse):
        dimensions.check("fingerprint-999", 5)
    dimensions.check("fingerprint-0", 5)


@given(st.text(), st.integers(1, 50))
def test_printable(text: str, limit: int) -> None:
    """Any text becomes printable and short; what was both already stays as it is."""
    shown = printable(text, limit)

    assert shown.isprintable()
    assert limit >= len(shown)
    assert shown == printable(shown, limit)
    if text.isprintable() and len(text) <= limit:
        assert text == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a\nb", "a\\nb", id="line break"),
        pytest.param("\x1b[2J", "\\x1b[2J", id="escape sequence"),
        pytest.param("a\u202eb", "a\\u202eb", id="bidi override"),
        pytest.param("\ud800", "\\ud800", id="lone surrogate"),
        pytest.param("Bild für größer", "Bild für größer", id="letters"),
        pytest.param("x" * 21, "x" * 19 + "…", id="too long"),
    ],
)
def test_what_is_not_printable_is_written_out(text: str, expected: str) -> None:
    """A reader of the log still sees what was sent."""
    assert expected == printable(text, 20)


HOSTILE = st.text(alphabet=st.characters(), max_size=2000)


@given(HOSTILE, HOSTILE, HOSTILE, st.booleans())
def test_a_servers_error_is_safe_to_log(code: str, message: str, request_id: str, retryable: bool) -> None:
    """Whatever a server says, what the caller logs is one line without control characters, and bounded."""
    error = error_from_wire({"code": code, "message": message, "request_id": request_id, "retryable": retryable})

    assert error is not None
    assert error.request_id is not None
    assert all(text.isprintable() for text in (str(error), error.code, error.message, error.request_id))
    assert MAX_CODE_CHARACTERS >= len(error.code)
    assert MAX_MESSAGE_CHARACTERS >= len(error.message)
    assert MAX_ID_CHARACTERS >= len(error.request_id)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | HOSTILE,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(HOSTILE, children, max_size=3),
    max_leaves=8,
)
TEXTS = ["request_id", "fingerprint", "model_name", "status", "device"]
OTHERS = ["embedding", "dim", "normalized", "results", "error", "insecure_auth"]
CHANGES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(TEXTS, HOSTILE | JSON)
    | dict.fromkeys(OTHERS, JSON)
    | {"timings": st.dictionaries(HOSTILE, st.floats() | JSON, max_size=3)},
)


@given(st.sampled_from(["single", "batch", "health"]), CHANGES)
def test_any_answer_is_read_or_refused(kind: str, changes: Body) -> None:
    """With any JSON in any member, an answer is read or is `WrongResponse`, and no word of it can do harm in a log."""
    body: Body = {**wire(), "results": [wire()], "status": "ok"} | changes
    reads: dict[str, Callable[[], list[Any]]] = {
        "single": lambda: [read_single(body, ITEM, "pod")],
        "batch": lambda: read_batch(body, [ITEM], "pod"),
        "health": lambda: [read_health(body, "pod")],
    }
    results: list[Any] = []
    try:
        results = reads[kind]()
    except errors.WrongResponse as error:
        results = [error]

    names = ("fingerprint", "model_name", "status", "device", "message", "code")
    kept = [getattr(result, name, None) or "" for result in results for name in names]
    assert all(text.isprintable() and len(text) <= MAX_MESSAGE_CHARACTERS for text in kept)


def test_hostile_pod(caplog: pytest.LogCaptureFixture) -> None:
    """On the wire: neither the error that is raised nor what is logged on the way carries an escape sequence."""
    evil = "\x1b]0;owned\x07\r\n2026-01-01 INFO all is well"
    error = {"code": "OVERLOADED", "message": evil, "request_id": evil, "retryable": True}
    with (
        caplog.at_level("DEBUG", logger="clip_embedding_client"),
        scripted_server(json_reply({"error": error}, 503)) as script,
        ClipClient(settings(CLIP_POD_BASE_URL=script.base_url), clock=FakeTime().clock()) as client,
        pytest.raises(errors.Overloaded) as caught,
    ):
        client.embed_text("x")

    assert str(caught.value).isprintable()
    assert all(record.getMessage().isprintable() for record in written_here(caplog.records))


def test_name_of_the_model_comes_along() -> None:
    """An answer's `model_name` is the embedding's, for a batch too; an older service's is None."""
    named = FakeBackend(respond=lambda body: success(body) | {"model_name": "ViT-B-32"})

    [result] = client_over(named).embed_images(["http://a/"])

    assert isinstance(result, Embedding)
    assert ("ViT-B-32", "ViT-B-32") == (result.model_name, client_over(named).embed_text("x").model_name)
    assert None is client_over(FakeBackend()).embed_text("x").model_name


def test_numbers_as_json() -> None:
    """What Python's JSON reads and float32 cannot hold is refused like any other damage."""
    for text in ("NaN", "Infinity", "1e39", "1" + "0" * 400):
        body = json.loads(json.dumps(wire()).replace("0.5, 0.5]", f"0.5, {text}]"))
        with pytest.raises(errors.WrongResponse):
            read_single(body, ITEM, "pod")


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"timings": {"total_ms": 10**400}}, id="milliseconds"),
        pytest.param({"timings": {"total_ms": -(10**400)}}, id="milliseconds below zero"),
        pytest.param({"dim": 10**400}, id="dim"),
        pytest.param({"dim": 1_000_001}, id="dim that no model has"),
        pytest.param({"embedding": [10**400] * 4}, id="vector"),
    ],
)
def test_numbers_without_end(members: Body) -> None:
    """JSON has no largest number, and a float does: it is refused, and does not fill a log with its digits."""
    with pytest.raises(errors.WrongResponse) as caught:
        read_single(wire(**members), ITEM, "pod")
    assert len(caught.value.message) < 100
    if "dim" in members:
        with pytest.raises(errors.WrongResponse):
            read_health({"status": "ok", **members}, "pod")


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["scene-1", "COMPLETED", "IN_QUEUE", "FAILED", "ok", FINGERPRINT]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["results", "error", "code", "message", "request_id", "status", "id", "output", "timings"])
            | st.text(st.characters(), max_size=3),
            children,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(ANY_JSON, st.sampled_from([ITEM, RAW]))
def test_any_json_is_read_or_refused(answer: object, item: TextItem) -> None:
    """Whatever JSON comes instead of an answer: a vector, or `WrongResponse`."""
    with suppress(errors.WrongResponse):
        assert isinstance(read_single(answer, item, "pod"), Embedding)
    with suppress(errors.WrongResponse):
        assert all(isinstance(one, (Embedding, errors.ClipClientError)) for one in read_batch(answer, [item], "pod"))
    with suppress(errors.WrongResponse):
        assert read_health(answer, "pod").backend == "pod"


POD = {"CLIP_INFERENCE_BACKEND": "runpod_pod"}
SERVERLESS = {
    "CLIP_INFERENCE_BACKEND": "runpod_serverless",
    "RUNPOD_BASE_URL": "http://127.0.0.1:9",
    "RUNPOD_CLIP_ENDPOINT_ID": ".",
}
BODIES = st.binary(max_size=40) | ANY_JSON.map(lambda body: json.dumps(body).encode())


@given(
    st.sampled_from([POD, SERVERLESS]),
    st.lists(st.tuples(st.sampled_from([200, 200, 200, 204, 302, 404, 429, 500, 503]), BODIES), min_size=1, max_size=4),
)
def test_whatever_a_server_answers(variables: dict[str, str], answers: list[tuple[int, bytes]]) -> None:
    """Any status and any bytes, while a job is polled too: a vector, or an error of the client's own."""
    time, left = FakeTime(), list(answers)

    def answer(_exchange: object) -> HttpAnswer:
        status, data = left.pop(0) if left else (500, b"")
        return HttpAnswer(status, data, None)

    policy = Policy.of(settings(**variables, CLIP_TOTAL_TIMEOUT_S="60", CLIP_RETRY_ATTEMPTS="2"), time.clock())
    for flow in (policy.single(ITEM, None, None), policy.health(None)):
        done = play(flow, then=answer, time=time)
        assert isinstance(done.error, errors.ClipClientError) or isinstance(done.result, (Embedding, Health))
        assert done.error is None or str(done.error).isprintable()
