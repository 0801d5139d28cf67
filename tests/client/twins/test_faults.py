"""Whatever goes wrong on the wire is the same typed error from both clients, and the next call is answered."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Sequence

import pytest
from clip_embedding_client import BackendName, ClientSettings, ClipClientError, Event, Retried, errors
from clip_embedding_client.effects import MAX_RESPONSE_BYTES

from tests.client.twins.conftest import NO_PAUSES
from tests.client.twins.faulty import (
    DIM,
    Behaviour,
    Peer,
    Seen,
    error_reply,
    faulty_server,
    head,
    healthy,
    json_reply,
    page,
    read_request,
    reply,
    success,
    vector_of,
    wrong,
)
from tests.client.twins.twin import Opened
from tools.testbed.process import SECRET

_LONG_S, _SHORT_S = 60.0, 0.4
_PIECE = b" " * 1_048_576


def settings(base_url: str, *, timeout_s: float = _LONG_S, connect_timeout_s: float = 30.0) -> ClientSettings:
    return ClientSettings(
        clip_inference_backend=BackendName.POD,
        clip_pod_base_url=base_url,
        embedding_hmac_secret=SECRET,
        clip_pod_timeout_s=timeout_s,
        clip_connect_timeout_s=connect_timeout_s,
    )


def reset_before(peer: Peer) -> None:
    peer.reset()


def closed_before(_peer: Peer) -> None:
    """The block ends, and the connection with it."""


def _after(*pieces: bytes, reset: bool = False) -> Behaviour:
    def behave(peer: Peer) -> None:
        for piece in pieces:
            peer.send(piece)
        if reset:
            peer.reset()

    return behave


def _dripping(*before: bytes, piece: bytes = b"x", pause_s: float = 0.02) -> Behaviour:
    def behave(peer: Peer) -> None:
        for each in before:
            peer.send(each)
        peer.drip(piece, pause_s)

    return behave


def _silent(*before: bytes) -> Behaviour:
    def behave(peer: Peer) -> None:
        for piece in before:
            peer.send(piece)
        peer.over.wait()

    return behave


def another_protocol(peer: Peer) -> None:
    """Nobody has asked for one, and what comes over it is no answer, whatever it looks like."""
    peer.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    healthy(peer)


def over_long(peer: Peer) -> None:
    """It says how long it is, and means it. Its beginning alone would do as an answer."""
    data = _answer(peer)
    peer.send(head(200, {"Content-Length": str(len(data) + 2 * MAX_RESPONSE_BYTES)}) + data)
    for _ in range(2 * MAX_RESPONSE_BYTES // len(_PIECE)):
        peer.send(_PIECE)


def over_long_in_chunks(peer: Peer) -> None:
    """It does not say how long it is, and does not end."""
    peer.send(head(200, {"Transfer-Encoding": "chunked"}) + _chunk(_answer(peer)))
    peer.drip(_chunk(_PIECE), 0)


def over_long_in_gzip_in_gzip(peer: Peer) -> None:
    """It is a few hundred bytes on the wire."""
    data = gzip.compress(gzip.compress(_answer(peer) + bytes([32]) * 2 * MAX_RESPONSE_BYTES))
    reply(data=data, Content_Encoding="gzip, gzip")(peer)


def _answer(peer: Peer) -> bytes:
    return json.dumps(success(peer.seen.body)).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


def _head_with(length: int = 1000) -> bytes:
    return head(200, {"Content-Length": str(length)})


def gateway_error(status: int) -> Behaviour:
    """It looks like the contract's, but for the flag."""
    return json_reply({"error": {"code": str(status), "message": "Application failed to respond"}}, status)


_NESTED = b"[" * 100_000
# It leaves the connection open: a client that took it for the next call would wait for this one's body.
_ENCODED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: 1000\r\n\r\n"
_GZIPPED_PAGE = gzip.compress(b"<html><body>Bad</body></html>")
_SLOW = [
    pytest.param(_silent(), id="no answer"),
    pytest.param(_silent(b"HTTP/1.1 200 OK\r\n"), id="headers that stop"),
    pytest.param(_silent(_head_with(), b'{"requ'), id="body that stops"),
    pytest.param(_dripping(b"HTTP/1.1 200 OK\r\nX-Drip: "), id="dripping headers"),
    pytest.param(_dripping(b"HTTP/1.1 2"), id="dripping status"),
    pytest.param(_dripping(_head_with(1_000_000)), id="dripping body"),
    pytest.param(_dripping(head(200, {"Transfer-Encoding": "chunked"}), piece=b"1\r\nx\r\n"), id="dripping chunks"),
    pytest.param(_dripping(piece=b"HTTP/1.1 100 Continue\r\n\r\n"), id="for ever about to answer"),
    pytest.param(_dripping(piece=b"HTTP/1.1 102 Processing\r\n\r\n"), id="for ever processing"),
]
_FAULTS = [
    pytest.param(reset_before, errors.ConnectionFailed, id="reset before the answer"),
    pytest.param(closed_before, errors.ConnectionFailed, id="closed before the answer"),
    pytest.param(_after(b"HTTP/1.1 200 OK\r\nX-", reset=True), errors.ConnectionFailed, id="reset in the headers"),
    pytest.param(_after(_head_with(), b'{"requ', reset=True), errors.ConnectionFailed, id="reset in the body"),
    pytest.param(_after(_head_with(), b'{"requ'), errors.ConnectionFailed, id="body cut short"),
    pytest.param(
        _after(head(200, {"Transfer-Encoding": "chunked"}), b"5\r\n{"), errors.ConnectionFailed, id="chunk cut short"
    ),
    pytest.param(
        _after(head(200, {"Transfer-Encoding": "chunked"}), b"zz\r\n{}\r\n"), errors.ConnectionFailed, id="no chunk"
    ),
    pytest.param(_after(b"\x00\x01 what is this?\r\n\r\n"), errors.ConnectionFailed, id="not HTTP"),
    pytest.param(another_protocol, errors.ConnectionFailed, id="another protocol"),
    pytest.param(_after(b"HTTP/1.1 103 Early Hints\r\n\r\n"), errors.ConnectionFailed, id="about to answer"),
    pytest.param(
        _dripping(b"HTTP/1.1 200 OK\r\n", piece=b"X-More: x\r\n" * 100, pause_s=0),
        errors.ConnectionFailed,
        id="headers without end",
    ),
    pytest.param(reply(data=b"no gzip", Content_Encoding="gzip"), errors.UnreadableResponse, id="broken gzip"),
    pytest.param(_silent(_ENCODED_HEAD), errors.UnreadableResponse, id="encoded body that does not come"),
    pytest.param(over_long, errors.UnreadableResponse, id="over-long body"),
    pytest.param(over_long_in_chunks, errors.UnreadableResponse, id="over-long body in chunks"),
    pytest.param(over_long_in_gzip_in_gzip, errors.UnreadableResponse, id="over-long body in gzip in gzip"),
    pytest.param(reply(data=b""), errors.UnreadableResponse, id="empty"),
    pytest.param(_after(head(204, {})), errors.UnreadableResponse, id="204"),
    pytest.param(page(200), errors.UnreadableResponse, id="not JSON"),
    pytest.param(reply(data=b"\xff\xfe{}"), errors.UnreadableResponse, id="not text"),
    pytest.param(reply(data=_NESTED), errors.UnreadableResponse, id="nothing but brackets"),
    pytest.param(reply(302, Location="http://127.0.0.1:9/"), errors.BackendMisconfigured, id="redirect"),
    pytest.param(
        _after(head(302, {"Location": "/", "Content-Length": "9999999999"})),
        errors.ConnectionFailed,
        id="redirect whose body is cut short",
    ),
    pytest.param(page(404), errors.BackendMisconfigured, id="404 page"),
    pytest.param(page(408), errors.BackendTimeout, id="408 page"),
    pytest.param(page(429), errors.RateLimited, id="429 page"),
    pytest.param(page(502), errors.GatewayFailed, id="502 page"),
    pytest.param(page(503), errors.GatewayFailed, id="503 page"),
    pytest.param(reply(404, _GZIPPED_PAGE, Content_Encoding="gzip"), errors.BackendMisconfigured, id="404 in gzip"),
    pytest.param(reply(429, _GZIPPED_PAGE, Content_Encoding="gzip"), errors.RateLimited, id="429 in gzip"),
    pytest.param(reply(503, _GZIPPED_PAGE, Content_Encoding="gzip"), errors.GatewayFailed, id="503 in gzip"),
    pytest.param(
        page(503, Content_Encoding=", ".join(["gzip"] * 20)), errors.GatewayFailed, id="503 in many encodings"
    ),
    pytest.param(error_reply("RATE_LIMITED", 429, retryable=True), errors.RateLimited, id="429"),
    pytest.param(error_reply("OVERLOADED", 503, retryable=True), errors.Overloaded, id="overloaded"),
    pytest.param(error_reply("AUTH_FAILED", 401, retryable=False), errors.AuthFailed, id="auth failed"),
    pytest.param(error_reply("NEW_CODE", 418, retryable=False), errors.PermanentError, id="code of the future"),
    pytest.param(gateway_error(502), errors.GatewayFailed, id="502 in a gateway's JSON"),
    pytest.param(gateway_error(429), errors.RateLimited, id="429 in a gateway's JSON"),
    pytest.param(gateway_error(404), errors.BackendMisconfigured, id="404 in a gateway's JSON"),
    pytest.param(error_reply("BAD_DAY", 500, retryable=False), errors.GatewayFailed, id="500 with an unknown code"),
    pytest.param(error_reply("INTERNAL", 500, retryable=True), errors.ServerFailed, id="500 of the service"),
    pytest.param(json_reply([1, 2]), errors.WrongResponse, id="list"),
    pytest.param(json_reply({"ok": True}), errors.WrongResponse, id="another object"),
    pytest.param(wrong(dim=DIM + 1), errors.WrongResponse, id="wrong dim"),
    pytest.param(wrong(embedding="AAAA"), errors.WrongResponse, id="three bytes"),
    pytest.param(wrong(embedding=[1.0, float("nan"), 0.0, 0.0]), errors.WrongResponse, id="NaN"),
    pytest.param(wrong(embedding=[0.5, 0.0, 0.0, 0.0]), errors.WrongResponse, id="wrong norm"),
    pytest.param(wrong(request_id="another"), errors.WrongResponse, id="another request's answer"),
    pytest.param(wrong(normalized=False), errors.WrongResponse, id="not normalized"),
]


@pytest.mark.parametrize(("fault", "expected"), _FAULTS)
def test_fault(opened: Opened, fault: Behaviour, expected: type[ClipClientError]) -> None:
    """Each fault has its typed error, shows nothing private, is asked about once, and harms no later call."""
    with faulty_server(fault, healthy) as script, opened(settings(script.base_url)) as client:
        with pytest.raises(ClipClientError) as caught:
            client.embed_image("https://example.com/a.jpg?token=private", max_retries=0)
        asked = len(script.seen)
        after = client.embed_text("after")

    assert (expected, 1) == (type(caught.value), asked)
    assert not any(hidden in str(caught.value) for hidden in ("private", SECRET, script.base_url))
    assert vector_of("after") == after.vector.tolist()


@pytest.mark.parametrize("fault", _SLOW)
def test_slow_fault(opened: Opened, fault: Behaviour) -> None:
    """However it is slow, and however often something comes of it, it is a timeout, and harms no later call."""
    with faulty_server(fault, healthy) as script, opened(settings(script.base_url)) as client:
        with pytest.raises(errors.BackendTimeout):
            client.embed_image("https://example.com/a.jpg", timeout=_SHORT_S, max_retries=0)
        after = client.embed_text("after")

    assert vector_of("after") == after.vector.tolist()


@pytest.mark.parametrize(
    "interim",
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="100"),
        pytest.param(b"HTTP/1.1 102 Processing\r\nContent-Length: 7\r\n\r\n", id="102"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", id="103"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + b"HTTP/1.1 100 Continue\r\n\r\n", id="several"),
    ],
)
def test_interim_answers_are_not_the_answer(opened: Opened, interim: bytes) -> None:
    """It comes after them, and none is taken for that of a later call on the same connection, which is kept."""

    def behave(peer: Peer) -> None:
        seen: Seen | None = peer.seen
        while seen is not None:
            data = json.dumps(success(seen.body)).encode()
            peer.send(interim + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            seen = read_request(peer.connection)

    with faulty_server(behave) as script, opened(settings(script.base_url)) as client:
        vectors = [client.embed_text(text, request_id="same", max_retries=0).vector.tolist() for text in "abc"]

    assert list(map(vector_of, "abc")) == vectors
    assert 1 == len(script.seen)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(page(429, Retry_After="7"), id="429 page"),
        pytest.param(page(503, Retry_After="7"), id="503 page"),
        pytest.param(reply(503, _GZIPPED_PAGE, Content_Encoding="gzip", Retry_After="7"), id="503 in gzip"),
        pytest.param(error_reply("RATE_LIMITED", 429, retryable=True, Retry_After="7"), id="429"),
    ],
)
def test_retry_after_is_kept(opened: Opened, fault: Behaviour) -> None:
    """Both clients wait for as long as the server asks, and say so when there is no attempt left."""
    events: list[Event] = []
    with (
        faulty_server(fault) as script,
        opened(settings(script.base_url), events.append, NO_PAUSES) as client,
        pytest.raises(errors.UnavailableError) as caught,
    ):
        client.embed_text("x", max_retries=1)

    assert 7.0 == caught.value.retry_after_s
    assert [7.0] == [event.pause_s for event in events if isinstance(event, Retried)]


def test_nobody_listens(opened: Opened) -> None:
    """A refused connection is told apart from one that breaks."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with opened(settings(url)) as client, pytest.raises(errors.ConnectionFailed) as caught:
            client.embed_text("x", max_retries=0)

    assert "nothing takes connections there" == caught.value.message


def test_fault_is_tried_again(opened: Opened) -> None:
    """What passes is sent again, signed anew, until it works; both count each time."""
    faults: Sequence[Behaviour] = [reset_before, page(502), reply(data=b"")]
    with faulty_server(*faults, healthy) as script, opened(settings(script.base_url), None, NO_PAUSES) as client:
        embedding = client.embed_text("x", request_id="again")
        retries = client.counters["retries"]

    assert vector_of("x") == embedding.vector.tolist()
    assert (3, {"again"}) == (retries, {seen.body["request_id"] for seen in script.seen})


def test_no_encoding_is_asked_for(opened: Opened) -> None:
    """Every request says that its answer is to come as it is, so that what is read is what the limit counts."""
    with faulty_server(healthy) as script, opened(settings(script.base_url)) as client:
        client.embed_text("x")
        client.health()

    assert [("POST", "identity"), ("GET", "identity")] == [
        (seen.method, seen.headers["accept-encoding"]) for seen in script.seen
    ]


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        pytest.param("gzip", gzip.compress, id="gzip"),
        pytest.param("GZIP", gzip.compress, id="capitals"),
        pytest.param("deflate", zlib.compress, id="deflate"),
        pytest.param("gzip, gzip", lambda data: gzip.compress(gzip.compress(data)), id="gzip in gzip"),
        pytest.param("identity, gzip", gzip.compress, id="identity and gzip"),
        pytest.param("new", bytes, id="encoding of the future"),
    ],
)
def test_encoded_success_is_not_decoded(opened: Opened, encoding: str, encode: Callable[[bytes], bytes]) -> None:
    """An answer in an encoding that was not asked for cannot be read, also one that would be right."""

    def encoded(peer: Peer) -> None:
        reply(data=encode(_answer(peer)), Content_Encoding=encoding)(peer)

    with (
        faulty_server(encoded) as script,
        opened(settings(script.base_url)) as client,
        pytest.raises(errors.UnreadableResponse) as caught,
    ):
        client.embed_text("x", max_retries=0)

    assert "HTTP 200 in a content encoding that was not asked for" == caught.value.message


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_identity_is_read(opened: Opened, encoding: str) -> None:
    """A server may say that it has encoded nothing."""

    def said(peer: Peer) -> None:
        reply(data=_answer(peer), Content_Encoding=encoding)(peer)

    with faulty_server(said) as script, opened(settings(script.base_url)) as client:
        assert vector_of("x") == client.embed_text("x").vector.tolist()


_LARGE = bytes(12_000_000)


def test_large_body_takes_longer_than_a_connection_may(opened: Opened) -> None:
    """The time for connecting does not bound the sending: a batch of files on a slow line takes as long as it takes."""
    connect_timeout_s = 0.3

    def late(peer: Peer) -> None:
        # Of the rule itself, not of the machine: reading begins when that time is surely over.
        peer.over.wait(3 * connect_timeout_s)
        peer.seen = read_request(peer.connection) or peer.seen
        error_reply("INVALID_IMAGE", 422, retryable=False)(peer)

    with (
        faulty_server(late, read=False) as script,
        opened(settings(script.base_url, connect_timeout_s=connect_timeout_s)) as client,
        pytest.raises(errors.InvalidImage),
    ):
        client.embed_image(_LARGE, max_retries=0)


def test_body_that_nobody_reads(opened: Opened) -> None:
    """A server that takes a connection and reads nothing is too slow, not broken."""
    with (
        faulty_server(_silent(), read=False) as script,
        opened(settings(script.base_url)) as client,
        pytest.raises(errors.BackendTimeout),
    ):
        client.embed_image(_LARGE, timeout=_SHORT_S, max_retries=0)
