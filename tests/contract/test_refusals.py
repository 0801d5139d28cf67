"""What every backend refuses, with the contract's codes."""

from collections.abc import Callable
from typing import Any

import pytest

from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from tests.contract.conftest import Drawing
from tools.testbed.target import Target, signed_batch, signed_content, signed_image, signed_text, signed_texts, without

Body = dict[str, Any]


def forged(body: Body) -> Body:
    return body | {"auth": body["auth"] | {"sig": "0" * 64}}


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda: forged(signed_text("x")), "AUTH_FAILED", id="wrong signature"),
        pytest.param(lambda: signed_text("x", secret="other"), "AUTH_FAILED", id="wrong secret"),
        pytest.param(lambda: signed_text("x") | {"text": "y"}, "AUTH_FAILED", id="another text"),
        pytest.param(lambda: without(signed_text("x"), "auth"), "AUTH_FAILED", id="no auth"),
        pytest.param(lambda: signed_text("x") | {"auth": "letmein"}, "AUTH_FAILED", id="auth of a wrong type"),
        pytest.param(lambda: signed_text("x") | {"auth": {}}, "AUTH_FAILED", id="empty auth"),
        pytest.param(lambda: signed_text("x", age_s=3600), "AUTH_EXPIRED", id="an old signature"),
        pytest.param(lambda: signed_text("x", age_s=-3600), "AUTH_EXPIRED", id="a signature from the future"),
    ],
)
def test_signature(target: Target, make: Callable[[], Body], code: str) -> None:
    """Only a right and recent signature of this very payload is let in."""
    answer = target.send(EMBED_TEXT, make())

    assert (code, False) == (answer.code, answer.body["error"]["retryable"])


def test_signature_for_another_path_is_refused(target: Target, drawings: list[Drawing]) -> None:
    """A batch item's signature does not open the single operation."""
    item = signed_image(drawings[0].url, path=EMBED_IMAGE_BATCH)

    assert "AUTH_FAILED" == target.send(EMBED_IMAGE, item).code


def test_one_bad_signature_refuses_the_whole_batch(target: Target, drawings: list[Drawing]) -> None:
    """A batch is either signed throughout or not at all."""
    batch = signed_batch([drawing.url for drawing in drawings[:3]])
    batch["items"][1] = forged(batch["items"][1])

    assert "AUTH_FAILED" == target.send(EMBED_IMAGE_BATCH, batch).code


def test_signature_appears_once_in_a_batch(target: Target, drawings: list[Drawing]) -> None:
    """What is signed once is embedded once: the message names the first item that repeats another's signature."""
    urls = [drawing.url for drawing in drawings[:3]]
    batch = signed_batch([*urls, urls[1]])
    batch["items"][3]["auth"] = batch["items"][1]["auth"]

    answer = target.send(EMBED_IMAGE_BATCH, batch)

    assert ("VALIDATION_ERROR", False) == (answer.code, answer.body["error"]["retryable"])
    assert answer.body["error"]["message"].startswith("items[3].auth: ")


def test_same_image_signed_at_another_second_is_another_signature(target: Target, drawings: list[Drawing]) -> None:
    """One URL may stand in a batch twice, each time with a signature of its own."""
    earlier = signed_image(drawings[0].url, path=EMBED_IMAGE_BATCH, request_id="earlier", age_s=10)
    batch = signed_batch([drawings[0].url])

    answer = target.send(EMBED_IMAGE_BATCH, {"items": [*batch["items"], earlier]})

    assert [512, 512] == [result["dim"] for result in answer.body["results"]]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda: forged(signed_content(b"x")), "AUTH_FAILED", id="wrong signature"),
        pytest.param(lambda: signed_content(b"x") | {"image_b64": "QUJD"}, "AUTH_FAILED", id="other bytes"),
        pytest.param(lambda: signed_content(b"x", age_s=3600), "AUTH_EXPIRED", id="an old signature"),
        pytest.param(
            lambda: forged(signed_content(bytes(10_485_761))), "AUTH_FAILED", id="too large, with a wrong signature"
        ),
        pytest.param(lambda: signed_content(bytes(10_485_761)), "IMAGE_TOO_LARGE", id="one byte too many"),
        pytest.param(lambda: signed_content(bytes(10_485_760)), "INVALID_IMAGE", id="as large as it may be"),
        pytest.param(lambda: signed_content(b""), "INVALID_IMAGE", id="empty"),
        pytest.param(lambda: signed_content(b"x") | {"image_b64": "eA"}, "INVALID_IMAGE", id="no padding"),
    ],
)
def test_image_by_content(target: Target, make: Callable[[], Body], code: str) -> None:
    """Signed are the bytes; what has none is no image, whoever sends it."""
    assert code == target.send(EMBED_IMAGE, make()).code


@pytest.mark.parametrize(
    ("path", "make", "code", "named"),
    [
        pytest.param(EMBED_TEXT, lambda: {}, "VALIDATION_ERROR", "text", id="no text"),
        pytest.param(EMBED_TEXT, lambda: signed_text("x" * 10_001), "VALIDATION_ERROR", "text", id="text too long"),
        pytest.param(
            EMBED_TEXT, lambda: signed_text("x", normalize="yes"), "VALIDATION_ERROR", "normalize", id="normalize"
        ),
        pytest.param(EMBED_TEXT, lambda: {"text": "\ud800"}, "VALIDATION_ERROR", "text", id="lone surrogate"),
        pytest.param(
            EMBED_TEXT, lambda: signed_text("x", request_id=""), "VALIDATION_ERROR", "request_id", id="empty id"
        ),
        pytest.param(EMBED_IMAGE_BATCH, lambda: {"items": []}, "VALIDATION_ERROR", "items", id="empty batch"),
        pytest.param(
            EMBED_IMAGE_BATCH,
            lambda: {"items": [without(signed_batch(["http://a/"])["items"][0], "request_id")]},
            "VALIDATION_ERROR",
            "items[0].request_id",
            id="item without id",
        ),
        pytest.param(
            EMBED_IMAGE,
            lambda: signed_content(b"x") | {"image_url": "http://a/"},
            "VALIDATION_ERROR",
            "image_url",
            id="URL and content",
        ),
        pytest.param(
            EMBED_IMAGE_BATCH,
            lambda: {"items": [*signed_batch(["http://a/"])["items"], {"request_id": "b"}]},
            "VALIDATION_ERROR",
            "items[1].image_url",
            id="neither URL nor content",
        ),
        pytest.param(
            EMBED_IMAGE_BATCH, lambda: signed_batch(["http://a/"] * 17), "BATCH_TOO_LARGE", "16", id="17 items"
        ),
        pytest.param(
            EMBED_TEXT_BATCH,
            lambda: signed_texts([str(number) for number in range(257)]),
            "BATCH_TOO_LARGE",
            "256",
            id="257 texts",
        ),
        pytest.param(
            EMBED_TEXT_BATCH, lambda: signed_texts(["a", ""]), "VALIDATION_ERROR", "items[1].text", id="empty text"
        ),
        pytest.param(
            EMBED_TEXT_BATCH, lambda: signed_texts(["a", "a"]), "VALIDATION_ERROR", "items[1].auth", id="one text twice"
        ),
    ],
)
def test_validation(target: Target, path: str, make: Callable[[], Body], code: str, named: str) -> None:
    """A wrong field is refused with a message that names it."""
    answer = target.send(path, make())

    assert code == answer.code
    assert named in answer.body["error"]["message"]


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("ftp://example.com/a.jpg", id="scheme"),
        pytest.param("file:///etc/passwd", id="file"),
        pytest.param("http://169.254.169.254/latest/meta-data/", id="cloud metadata"),
        pytest.param("http://[::1]/a.jpg", id="IPv6 loopback"),
        pytest.param("http://10.0.0.1/a.jpg", id="private network"),
        pytest.param("http://user:pass@example.com/a.jpg", id="credentials"),
        pytest.param("http://8.8.8.8:22/a.jpg", id="port"),
        pytest.param("not a url", id="not a URL"),
    ],
)
def test_url_that_is_not_allowed(target: Target, url: str) -> None:
    """Only public addresses on web ports are fetched; the message never says what is behind the name."""
    answer = target.send(EMBED_IMAGE, signed_image(url))

    assert ("URL_NOT_ALLOWED", False) == (answer.code, answer.body["error"]["retryable"])


def test_error_carries_the_request_id(target: Target) -> None:
    """A refused request is found again by its own id."""
    answer = target.send(EMBED_TEXT, forged(signed_text("x", request_id="query-9")))

    assert "query-9" == answer.body["error"]["request_id"]
