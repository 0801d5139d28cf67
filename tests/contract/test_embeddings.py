"""`/v1/embeddings` on every backend: what OpenAI's shape holds, for texts and images."""

import base64

import numpy as np
import pytest

from core.wire.openai import EMBEDDINGS
from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tests.contract.conftest import Drawing
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded, natural
from tools.testbed.target import Body, Target, signed_image, signed_text

TOLERANCE = 1e-3


def rows(body: Body) -> "np.typing.NDArray[np.float32]":
    return np.array([datum["embedding"] for datum in body["data"]], dtype=np.float32)


def test_texts(target: Target) -> None:
    """One vector per text, in order, of norm 1, equal to the signed operation's; tokens are counted."""
    answer = target.ask_openai(EMBEDDINGS, {"input": ["a red circle", "a blue square"], "model": "tiny-shapes"})
    alone = target.send(EMBED_TEXT, signed_text("a blue square")).vector
    body = answer.body

    assert ("list", "tiny-shapes") == (body["object"], body["model"])
    assert [("embedding", 0), ("embedding", 1)] == [(one["object"], one["index"]) for one in body["data"]]
    assert TOLERANCE > np.linalg.norm(rows(body)[1] - alone)
    # Start and end are tokens too.
    assert {"prompt_tokens": 10, "total_tokens": 10} == body["usage"]
    assert body["fingerprint"].startswith("2-")


def test_one_string_and_base64(target: Target) -> None:
    """A string is one input; base64 is what OpenAI's clients ask for by themselves."""
    plain = target.ask_openai(EMBEDDINGS, {"input": "a red circle"}).body
    packed = target.ask_openai(EMBEDDINGS, {"input": "a red circle", "encoding_format": "base64", "user": "me"}).body
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")

    assert TOLERANCE > np.linalg.norm(rows(plain)[0] - vector)


def test_images_and_texts(target: Target, drawings: list[Drawing]) -> None:
    """Objects say what they are, and may be mixed; with `modality` image, strings are addresses."""
    drawing = drawings[0]
    mixed = target.ask_openai(EMBEDDINGS, {"input": [{"text": drawing.caption}, {"image_url": drawing.url}]}).body
    images = target.ask_openai(EMBEDDINGS, {"input": [drawing.url], "modality": "image"}).body
    signed = target.send(EMBED_IMAGE, signed_image(drawing.url)).vector

    assert TOLERANCE > np.linalg.norm(rows(mixed)[1] - signed)
    assert TOLERANCE > np.linalg.norm(rows(images)[0] - signed)
    assert 0 == images["usage"]["total_tokens"] < mixed["usage"]["total_tokens"]


@pytest.mark.parametrize("side_px", [pytest.param(64, id="small"), pytest.param(512, id="long in the body")])
def test_images_by_content(target: Target, images: ImageServer, side_px: int) -> None:
    """As a data URI or as an object, of any length: the vector of the same file behind a URL."""
    picture = encoded(natural(side_px, side_px), "PNG")
    content = base64.b64encode(picture).decode()
    uri = f"data:image/png;base64,{content}"
    url = images.add(f"/{side_px}.png", picture)
    given = [{"image_b64": content}, {"text": "a red circle"}, uri, {"image_url": url}]
    body = target.ask_openai(EMBEDDINGS, {"input": given, "modality": "image"}).body
    alone = target.ask_openai(EMBEDDINGS, {"input": uri, "modality": "image"}).body

    sent, _text, of_uri, downloaded = rows(body)
    for row in (sent, of_uri, rows(alone)[0]):
        assert TOLERANCE > np.linalg.norm(row - downloaded)


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        pytest.param(["x" * 300_000], "VALIDATION_ERROR", "input[0]", id="long text"),
        pytest.param([{"image_url": "x" * 300_000}], "VALIDATION_ERROR", "input[0]", id="long URL"),
        pytest.param([{"image_b64": "x y"}], "INVALID_IMAGE", "input[0]", id="no base64"),
        pytest.param([{"text": "a"}, {"image_b64": "x" * 300_001}], "INVALID_IMAGE", "input[1]", id="long, no base64"),
    ],
)
def test_long_or_broken_input_is_named(target: Target, given: list[object], code: str, param: str) -> None:
    """However it has come through the parser."""
    error = target.ask_openai(EMBEDDINGS, {"input": given}).body["error"]

    assert (code, param) == (error["code"], error["param"])


def test_failed_input_fails_the_request_and_is_named(target: Target, drawings: list[Drawing]) -> None:
    """Unless the request takes what there is: then its error stands in its place."""
    given = [{"image_url": drawings[0].url}, {"image_url": "http://10.0.0.1/x.png"}]
    whole = target.ask_openai(EMBEDDINGS, {"input": given})
    partial = target.ask_openai(EMBEDDINGS, {"input": given, "partial": True})
    first, second = partial.body["data"]

    assert ("URL_NOT_ALLOWED", "input[1]") == (whole.code, whole.body["error"]["param"])
    assert "embedding" == first["object"]
    assert ("error", 1, None) == (second["object"], second["index"], second["embedding"])
    assert "URL_NOT_ALLOWED" == second["error"]["code"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        pytest.param({"input": "a", "model": "gpt-4"}, "NOT_FOUND", "model", id="another model"),
        pytest.param({"input": "a", "dimensions": 256}, "VALIDATION_ERROR", "dimensions", id="other dimensions"),
        pytest.param({"input": ""}, "VALIDATION_ERROR", "input", id="empty text"),
        pytest.param({"input": []}, "VALIDATION_ERROR", "input", id="no input"),
        pytest.param({}, "VALIDATION_ERROR", "input", id="input missing"),
        pytest.param({"input": ["a", ""]}, "VALIDATION_ERROR", "input[1]", id="an empty text among others"),
        pytest.param({"input": [[1, 2]]}, "VALIDATION_ERROR", "input[0]", id="token ids of texts"),
        pytest.param({"input": [1, 2]}, "VALIDATION_ERROR", "input[0]", id="token ids"),
        pytest.param({"input": [{"video": "x"}]}, "VALIDATION_ERROR", "input[0]", id="unknown kind"),
        pytest.param({"input": [{"text": "x", "image_url": "y"}]}, "VALIDATION_ERROR", "input[0]", id="two kinds"),
        pytest.param(
            {"input": "data:text/plain;base64,QQ==", "modality": "image"}, "VALIDATION_ERROR", "input", id="no image"
        ),
        pytest.param({"input": "a", "encoding_format": "hex"}, "VALIDATION_ERROR", "encoding_format", id="encoding"),
        pytest.param({"input": [str(n) for n in range(257)]}, "BATCH_TOO_LARGE", None, id="257 texts"),
        pytest.param({"input": ["http://a/"] * 17, "modality": "image"}, "BATCH_TOO_LARGE", None, id="17 images"),
    ],
)
def test_what_is_refused(target: Target, body: Body, code: str, param: str | None) -> None:
    """In OpenAI's shape, with our code and the member that is at fault."""
    error = target.ask_openai(EMBEDDINGS, body).body["error"]

    assert {"message", "type", "param", "code"} == error.keys()
    assert (code, param, "invalid_request_error") == (error["code"], error["param"], error["type"])


def test_image_at_fault_is_the_requests(target: Target, images: ImageServer) -> None:
    """It is a 4xx, and no `server_error`, whether it is refused, not there or no picture."""
    there = images.add("/no-picture.png", b"no picture")
    urls = ["ftp://127.0.0.1/a.png", images.base_url + "/missing.png", there]
    errors = [target.ask_openai(EMBEDDINGS, {"input": url, "modality": "image"}).body["error"] for url in urls]

    assert [
        ("URL_NOT_ALLOWED", "invalid_request_error"),
        ("DOWNLOAD_ERROR", "invalid_request_error"),
        ("INVALID_IMAGE", "invalid_request_error"),
    ] == [(error["code"], error["type"]) for error in errors]


def test_null_encoding_is_none_that_is_named(target: Target) -> None:
    """LiteLLM sends it so when its caller names none."""
    body = target.ask_openai(EMBEDDINGS, {"input": "a", "encoding_format": None}).body

    assert (1, 512) == rows(body).shape


def test_accepted_dimensions_are_the_models(target: Target) -> None:
    """Clients that always name them are served."""
    body = target.ask_openai(EMBEDDINGS, {"input": "a", "dimensions": 512}).body

    assert (1, 512) == rows(body).shape
