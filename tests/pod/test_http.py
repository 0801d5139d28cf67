"""What only the HTTP backend has: status codes, headers, raw bodies, health routes."""

import asyncio
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from pod.errors import STATUS
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT
from tests.core.test_errors import leaves
from tools.fuzz.requests import outcome
from tools.testbed.image_server import ImageServer
from tools.testbed.process import PodProcess
from tools.testbed.raw_http import connected, head, read_answer
from tools.testbed.target import PodTarget, signed_batch, signed_image, signed_text


def test_every_error_has_a_status() -> None:
    """The table covers the whole tree: a new error cannot be forgotten."""
    assert set(leaves()) == set(STATUS)


def test_statuses_are_the_contracts() -> None:
    """Some callers only look at the status."""
    by_code = {error.code: status for error, status in STATUS.items()}

    assert {"INVALID_JSON": 400, "VALIDATION_ERROR": 422, "BATCH_TOO_LARGE": 400, "BODY_TOO_LARGE": 413}.items() <= (
        by_code.items()
    )
    assert {"AUTH_FAILED": 401, "AUTH_EXPIRED": 401, "URL_NOT_ALLOWED": 400, "DOWNLOAD_ERROR": 400}.items() <= (
        by_code.items()
    )
    assert {"DOWNLOAD_TIMEOUT": 400, "IMAGE_TOO_LARGE": 413, "INVALID_IMAGE": 422, "OVERLOADED": 503}.items() <= (
        by_code.items()
    )
    assert {"RATE_LIMITED": 429, "DEADLINE_EXCEEDED": 504, "NOT_READY": 503, "INFERENCE_ERROR": 500}.items() <= (
        by_code.items()
    )
    assert {"NOT_FOUND": 404, "METHOD_NOT_ALLOWED": 405, "INTERNAL": 500}.items() <= by_code.items()


@pytest.mark.parametrize(
    ("path", "data", "status", "code"),
    [
        pytest.param(EMBED_TEXT, b"", 400, "INVALID_JSON", id="empty body"),
        pytest.param(EMBED_TEXT, b"{not json", 400, "INVALID_JSON", id="not JSON"),
        pytest.param(EMBED_TEXT, b"[]", 400, "INVALID_JSON", id="not an object"),
        pytest.param(EMBED_TEXT, b'{"text":"a","text":"b"}', 400, "INVALID_JSON", id="duplicate key"),
        pytest.param(EMBED_TEXT, b'{"text":"a","x":NaN}', 400, "INVALID_JSON", id="NaN"),
        pytest.param(EMBED_TEXT, b"[" * 200_000, 400, "INVALID_JSON", id="huge nesting"),
        pytest.param(EMBED_TEXT, b'{"text":"\\ud800"}', 422, "VALIDATION_ERROR", id="escaped lone surrogate"),
        pytest.param("/v1/embed/video", b"{}", 404, "NOT_FOUND", id="unknown path"),
        pytest.param("//v1//embed/text", b"{}", 404, "NOT_FOUND", id="path with empty parts"),
        pytest.param("/health", b"{}", 405, "METHOD_NOT_ALLOWED", id="POST to health"),
    ],
)
def test_refused_request(pod_target: PodTarget, path: str, data: bytes, status: int, code: str) -> None:
    """Every refusal has the one error shape, whatever refused it."""
    response = pod_target.post(path, data)

    assert (status, code) == (response.status_code, response.json()["error"]["code"])
    assert {"code", "message", "request_id", "retryable"} == response.json()["error"].keys()
    assert response.headers["X-Request-ID"] == response.json()["error"]["request_id"]


def test_path_with_an_empty_part_in_front(pod_target: PodTarget) -> None:
    """As one in the middle: no operation, since metrics and traces know exact paths. `requests` would leave it out."""
    body = json.dumps(signed_text("x")).encode()
    with connected(pod_target.base_url) as client:
        client.sendall(head("/" + EMBED_TEXT, f"Content-Length: {len(body)}") + body)
        answer = read_answer(client)

    assert (404, "NOT_FOUND") == (answer.status, answer.code)


def test_body_over_the_limit(strict_pod: PodProcess) -> None:
    """One byte more than is allowed is refused by its length, the last one that is allowed is read."""
    target = PodTarget(strict_pod.base_url)
    answers = [target.post(EMBED_TEXT, b"x" * count) for count in (1_048_576, 1_048_577)]

    assert [(400, "INVALID_JSON"), (413, "BODY_TOO_LARGE")] == [
        (answer.status_code, answer.json()["error"]["code"]) for answer in answers
    ]


def test_body_over_the_limit_without_a_length(strict_pod: PodProcess) -> None:
    """A chunked body is counted while it is read."""

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    response = requests.post(strict_pod.base_url + EMBED_TEXT, data=chunks(), timeout=30)

    assert (413, "BODY_TOO_LARGE") == (response.status_code, response.json()["error"]["code"])


@pytest.mark.parametrize(
    ("path", "header", "expected"),
    [
        pytest.param(EMBED_TEXT, "X-Request-Timeout-Ms: soon", "422 VALIDATION_ERROR", id="wrong header"),
        pytest.param("/v1/embed/video", "X-Any: thing", "404 NOT_FOUND", id="unknown path"),
    ],
)
def test_refusal_before_the_body_is_read_arrives(pod_target: PodTarget, path: str, header: str, expected: str) -> None:
    """Closing a connection over an unread body resets it, and many a client then drops the answer that it has."""
    url = urlsplit(pod_target.base_url)
    head = f"POST {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n{header}\r\nContent-Length: 50000\r\n\r\n"
    answers = [
        asyncio.run(outcome(url.hostname or "", url.port or 80, head.encode() + b"x" * 50_000)) for _ in range(5)
    ]

    assert {expected} == set(answers)


@pytest.mark.parametrize("timeout_ms", ["0", "-1", "1.5", "", "10000000000", "1 000"])
def test_wrong_timeout_header(pod_target: PodTarget, timeout_ms: str) -> None:
    """A typing error must not become 90 seconds; the message names the header."""
    headers = {"X-Request-Timeout-Ms": timeout_ms}
    response = requests.post(pod_target.base_url + EMBED_TEXT, json=signed_text("x"), headers=headers, timeout=30)

    assert (422, "VALIDATION_ERROR") == (response.status_code, response.json()["error"]["code"])
    assert "X-Request-Timeout-Ms" in response.json()["error"]["message"]


def test_generous_timeout_header(pod_target: PodTarget) -> None:
    """More than the service allows is cut to that, without a word."""
    headers = {"X-Request-Timeout-Ms": "999999999"}
    response = requests.post(pod_target.base_url + EMBED_TEXT, json=signed_text("x"), headers=headers, timeout=30)

    assert 200 == response.status_code


AUTHS_OF_WRONG_TYPES = [
    pytest.param(value, id=name)
    for name, value in {
        "null": None,
        "number": 1703001234,
        "list": [1703001234, "0" * 64],
        "boolean ts": {"ts": True, "sig": "0" * 64},
        "text ts": {"ts": "1703001234", "sig": "0" * 64},
        "float ts": {"ts": 1703001234.0, "sig": "0" * 64},
        "huge ts": {"ts": 10**30, "sig": "0" * 64},
        "negative ts": {"ts": -1703001234, "sig": "0" * 64},
        "short ts": {"ts": 170300123, "sig": "0" * 64},
        "null sig": {"ts": 1703001234, "sig": None},
        "list sig": {"ts": 1703001234, "sig": ["0" * 64]},
        "number sig": {"ts": 1703001234, "sig": 0},
        "upper-case sig": {"ts": 1703001234, "sig": "A" * 64},
        "full-width sig": {"ts": 1703001234, "sig": "\uff10" * 64},
        "surrogate sig": {"ts": 1703001234, "sig": "\ud800" * 64},
        "long sig": {"ts": 1703001234, "sig": "0" * 65},
        "sig with a line end": {"ts": 1703001234, "sig": "0" * 64 + "\n"},
    }.items()
]


@pytest.mark.parametrize("auth", AUTHS_OF_WRONG_TYPES)
def test_signature_of_a_wrong_type(pod_target: PodTarget, auth: object) -> None:
    """Every shape that is not the contract's is AUTH_FAILED, with the one constant message."""
    response = pod_target.post(EMBED_TEXT, json.dumps({"text": "x", "auth": auth}).encode())

    assert (401, "AUTH_FAILED", "authentication failed") == (
        response.status_code,
        response.json()["error"]["code"],
        response.json()["error"]["message"],
    )


def test_get_on_an_operation(pod_target: PodTarget) -> None:
    """Operations are POST only."""
    response = requests.get(pod_target.base_url + EMBED_TEXT, timeout=30)

    assert (405, "METHOD_NOT_ALLOWED") == (response.status_code, response.json()["error"]["code"])


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        pytest.param(EMBED_TEXT, "GET", "OPTIONS, POST", id="operation"),
        pytest.param("/health", "PUT", "GET, HEAD, OPTIONS", id="health"),
    ],
)
def test_refused_method_is_told_which_are_taken(path: str, method: str, expected: str, pod_target: PodTarget) -> None:
    """RFC 9110, 15.5.6: a 405 lists them in `Allow`."""
    response = requests.request(method, pod_target.base_url + path, timeout=30)

    assert expected == response.headers["Allow"]


@pytest.mark.parametrize(
    ("request_id", "header"),
    [pytest.param("scene-1", "scene-1", id="ASCII"), pytest.param("szene-ä", "szene-%C3%A4", id="beyond ASCII")],
)
def test_request_id_header(pod_target: PodTarget, request_id: str, header: str) -> None:
    """The id is echoed in a header, percent-encoded where a header cannot hold it."""
    response = pod_target.post(EMBED_TEXT, json.dumps(signed_text("x", request_id=request_id)).encode())

    assert (request_id, header) == (response.json()["request_id"], response.headers["X-Request-ID"])


def test_statuses_of_whole_answers(pod_target: PodTarget, images: ImageServer) -> None:
    """A single failed image is a 4xx; inside a batch it is a 200 with an error in its place."""
    missing = images.base_url + "/missing.jpg"

    single = pod_target.post(EMBED_IMAGE, json.dumps(signed_image(missing)).encode())
    batch = pod_target.post(EMBED_IMAGE_BATCH, json.dumps(signed_batch([missing])).encode())

    assert (400, 200) == (single.status_code, batch.status_code)


def test_health_routes_of_a_ready_pod(pod_target: PodTarget) -> None:
    """All health routes say 200, and /health says what serves."""
    responses = {
        path: requests.get(pod_target.base_url + path, timeout=30) for path in ("/health", "/livez", "/readyz", "/ping")
    }
    body = responses["/health"].json()

    assert {"/health": 200, "/livez": 200, "/readyz": 200, "/ping": 200} == {
        path: response.status_code for path, response in responses.items()
    }
    assert ("ok", "tiny-shapes", "cpu", "float32", "openvino", 512, None, False) == tuple(
        body[name]
        for name in ("status", "model_name", "device", "dtype", "engine", "dim", "cuda_version", "insecure_auth")
    )
    assert {"fingerprint", "torch_version", "uptime_seconds", "version"} <= body.keys()
