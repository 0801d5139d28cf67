"""What every backend answers to good requests."""

import base64
import os
import re
from base64 import b64decode, b64encode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from tests.contract.conftest import Drawing
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded, natural
from tools.testbed.target import Body, Target, signed_batch, signed_content, signed_image, signed_text, signed_texts

# Relative to the length of the vector, in float32: batches of different sizes add in a different order.
ROW_TOLERANCE = 1e-3


def test_image(target: Target, drawings: list[Drawing]) -> None:
    """An image gives 512 floats of norm 1 and everything the contract lists beside them."""
    answer = target.send(EMBED_IMAGE, signed_image(drawings[0].url, request_id="scene-123"))

    assert ("scene-123", 512, True, "tiny-shapes", "local", "cpu") == tuple(
        answer.body[name] for name in ("request_id", "dim", "normalized", "model_name", "pretrained", "device")
    )
    assert re.fullmatch(r"2-[0-9a-f]{16}", answer.body["fingerprint"])
    assert {"download_ms", "decode_ms", "queue_ms", "inference_ms", "total_ms"} == answer.body["timings"].keys()
    assert (512,) == answer.vector.shape
    assert 1.0 == pytest.approx(float(np.linalg.norm(answer.vector)), abs=1e-5)


def test_text(target: Target) -> None:
    """A text gives 512 floats of norm 1, no decode time, and a download time that is null: old clients read it."""
    answer = target.send(EMBED_TEXT, signed_text("a red circle", request_id="query-1"))

    assert ("query-1", 512, True) == tuple(answer.body[name] for name in ("request_id", "dim", "normalized"))
    assert {"download_ms", "queue_ms", "inference_ms", "total_ms"} == answer.body["timings"].keys()
    assert answer.body["timings"]["download_ms"] is None
    assert "truncated" not in answer.body
    assert 1.0 == pytest.approx(float(np.linalg.norm(answer.vector)), abs=1e-5)


def test_captions_find_their_drawings(target: Target, drawings: list[Drawing]) -> None:
    """Every caption is nearest to its own drawing, and every drawing to its own caption."""
    images = np.stack([target.send(EMBED_IMAGE, signed_image(drawing.url)).vector for drawing in drawings])
    texts = np.stack([target.send(EMBED_TEXT, signed_text(drawing.caption)).vector for drawing in drawings])
    similarity = texts @ images.T

    assert list(range(len(drawings))) == similarity.argmax(axis=1).tolist()
    assert list(range(len(drawings))) == similarity.argmax(axis=0).tolist()


def test_batch_of_ten_with_a_broken_image_and_a_404(
    target: Target, drawings: list[Drawing], images: ImageServer
) -> None:
    """Eight vectors and two errors in their places, each row equal to the single result."""
    broken = images.add("/broken.jpg", b"\xff\xd8\xff\xe0 not really a JPEG")
    urls = [drawing.url for drawing in drawings[:8]]
    urls[3:3] = [broken]
    urls[7:7] = [images.base_url + "/missing.jpg"]

    answer = target.send(EMBED_IMAGE_BATCH, signed_batch(urls))
    singles = [target.send(EMBED_IMAGE, signed_image(drawing.url)).vector for drawing in drawings[:8]]

    results = answer.body["results"]
    assert [f"item-{position}" for position in range(10)] == [result["request_id"] for result in results]
    codes = {position: result["error"]["code"] for position, result in enumerate(results) if "error" in result}
    assert {3: "INVALID_IMAGE", 7: "DOWNLOAD_ERROR"} == codes
    assert all(
        np.linalg.norm(row - single) < ROW_TOLERANCE for row, single in zip(answer.vectors(), singles, strict=True)
    )
    assert {"total_download_ms", "total_inference_ms", "total_ms"} == answer.body["batch_timings"].keys()


@pytest.fixture
def picture() -> bytes:
    """A file that is on no server."""
    return encoded(natural(300, 200), "PNG")


def test_image_by_content(target: Target, images: ImageServer, picture: bytes) -> None:
    """The vector is that of the same file behind a URL; nothing was downloaded, and so no time of it is told."""
    sent = target.send(EMBED_IMAGE, signed_content(picture, request_id="scene-123"))
    downloaded = target.send(EMBED_IMAGE, signed_image(images.add("/content.png", picture)))

    assert "scene-123" == sent.body["request_id"]
    assert {"decode_ms", "queue_ms", "inference_ms", "total_ms"} == sent.body["timings"].keys()
    assert downloaded.vector == pytest.approx(sent.vector, abs=1e-6)


def test_batch_of_urls_and_contents(target: Target, images: ImageServer, picture: bytes) -> None:
    """A URL, bytes, broken bytes and a 404: two vectors and two errors in their places."""
    items = [
        signed_image(images.add("/content.png", picture), path=EMBED_IMAGE_BATCH),
        signed_content(picture, path=EMBED_IMAGE_BATCH, normalize=False),
        signed_content(picture[:-2000], path=EMBED_IMAGE_BATCH),
        signed_image(images.base_url + "/missing.jpg", path=EMBED_IMAGE_BATCH),
    ]
    body = {"items": [item | {"request_id": f"item-{position}"} for position, item in enumerate(items)]}

    answer = target.send(EMBED_IMAGE_BATCH, body)

    results = answer.body["results"]
    codes = {result["request_id"]: result["error"]["code"] for result in results if "error" in result}
    assert {"item-2": "INVALID_IMAGE", "item-3": "DOWNLOAD_ERROR"} == codes
    downloaded, sent = answer.vectors()
    assert ROW_TOLERANCE > np.linalg.norm(sent / np.linalg.norm(sent) - downloaded)
    assert [True, False] == ["download_ms" in result["timings"] for result in results[:2]]
    assert {"total_download_ms", "total_inference_ms", "total_ms"} == answer.body["batch_timings"].keys()


def test_batch_of_contents_alone(target: Target, picture: bytes) -> None:
    """Nothing is downloaded, and no total of it is told; what is no base64 is that item's error."""
    items = [
        signed_content(picture, path=EMBED_IMAGE_BATCH, request_id="one"),
        {"image_b64": "no base64", "request_id": "two"},
    ]
    answer = target.send(EMBED_IMAGE_BATCH, {"items": items})
    good, broken = answer.body["results"]

    assert 512 == good["dim"]
    assert ("INVALID_IMAGE", "two", False) == tuple(
        broken["error"][name] for name in ("code", "request_id", "retryable")
    )
    assert {"total_inference_ms", "total_ms"} == answer.body["batch_timings"].keys()


def test_what_comes_again_is_the_same_bit_for_bit(target: Target, images: ImageServer) -> None:
    """And says so, alone and in a batch, by URL or by content; what was computed for this request does not."""
    picture = encoded(natural(200, 201), "PNG") + os.urandom(8)
    url, text = images.add("/again.png", picture), f"a circle {os.urandom(8).hex()}"
    item: Body = {"path": EMBED_IMAGE_BATCH, "request_id": "one"}
    asked: list[tuple[str, Body]] = [
        (EMBED_IMAGE, signed_image(url)),
        (EMBED_IMAGE, signed_image(url)),
        (EMBED_IMAGE, signed_content(picture)),
        (EMBED_IMAGE_BATCH, {"items": [signed_image(url, **item), signed_content(picture, **item)]}),
        (EMBED_TEXT, signed_text(text)),
        (EMBED_TEXT, signed_text(text)),
        (EMBED_TEXT_BATCH, {"items": [signed_text(text, path=EMBED_TEXT_BATCH, request_id="one")]}),
    ]
    answers = [target.send(path, body).body for path, body in asked]
    results = [one for answer in answers for one in answer.get("results", [answer])]

    assert [None, True, True, True, True, None, True, True] == [one.get("cached") for one in results]
    assert [0.0] * 6 == [one["timings"]["inference_ms"] for one in results if one.get("cached")]
    assert 2 == len({str(one["embedding"]) for one in results})


@given(text=st.text(alphabet="AB+/=", max_size=20) | st.binary(max_size=20).map(lambda data: b64encode(data).decode()))
@settings(max_examples=25)
def test_any_base64_is_a_typed_error(target: Target, text: str) -> None:
    """Twenty bytes are no image, and whatever is no base64 has nobody's signature: INVALID_IMAGE or AUTH_FAILED."""
    try:
        body = signed_content(b64decode(text, validate=True))
    except ValueError:
        body = signed_content(b"")

    assert target.send(EMBED_IMAGE, body | {"image_b64": text}).code in ("INVALID_IMAGE", "AUTH_FAILED")


def test_item_error_has_the_contract_form(target: Target, images: ImageServer) -> None:
    """An error inside a batch names its item, says whether to retry, and shows nothing of the URL's query."""
    answer = target.send(EMBED_IMAGE_BATCH, signed_batch([images.base_url + "/missing.jpg?token=hidden"]))
    [result] = answer.body["results"]

    assert {"code", "message", "request_id", "retryable"} == result["error"].keys()
    assert ("item-0", False) == (result["error"]["request_id"], result["error"]["retryable"])
    assert "hidden" not in str(answer.body)


def test_batch_of_texts(target: Target) -> None:
    """Rows in the order of the request, each equal to the single result; texts of every length, one of them cut."""
    texts = [" ".join(["a", *["red"] * (position % 40), "circle"]) for position in range(99)]
    texts.append("word " * 500)
    answer = target.send(EMBED_TEXT_BATCH, signed_texts([f"{position} {text}" for position, text in enumerate(texts)]))
    results = answer.body["results"]

    assert [f"item-{position}" for position in range(100)] == [result["request_id"] for result in results]
    assert [False] * 99 + [True] == ["truncated" in result for result in results]
    assert {"total_inference_ms", "total_ms"} == answer.body["batch_timings"].keys()
    assert all(result["timings"]["download_ms"] is None for result in results)
    for position in (0, 7, 39, 99):
        alone = target.send(EMBED_TEXT, signed_text(f"{position} {texts[position]}"))
        row = np.asarray(results[position]["embedding"], dtype=np.float32)
        assert ROW_TOLERANCE > np.linalg.norm(alone.vector - row)


def test_normalize_is_honoured_per_text(target: Target) -> None:
    """One raw vector beside a unit one; `encoding_format` of the batch is that of its items."""
    body = signed_texts(["a red circle", "a blue square"], encoding_format="base64")
    body["items"][1]["normalize"] = False
    unit, raw = target.send(EMBED_TEXT_BATCH, body).body["results"]
    norms = [np.linalg.norm(np.frombuffer(base64.b64decode(one["embedding"]), "<f4")) for one in (unit, raw)]

    assert (True, False) == (unit["normalized"], raw["normalized"])
    assert 1.0 == pytest.approx(float(norms[0]), abs=1e-5)
    assert 1.0 != pytest.approx(float(norms[1]), abs=1e-2)


def test_normalize_is_honoured_per_item(target: Target, drawings: list[Drawing]) -> None:
    """The second item is not normalised because the first is."""
    # Two names of one picture: no signature appears twice in a batch.
    body = signed_batch([drawings[0].url, drawings[0].url + "#again"])
    body["items"][1]["normalize"] = False

    answer = target.send(EMBED_IMAGE_BATCH, body)
    first, second = answer.vectors()

    assert [True, False] == [result["normalized"] for result in answer.body["results"]]
    assert 1.0 == pytest.approx(float(np.linalg.norm(first)), abs=1e-5)
    assert 0.01 < abs(float(np.linalg.norm(second)) - 1.0)
    assert second / np.linalg.norm(second) == pytest.approx(first, abs=ROW_TOLERANCE)


def test_long_text_is_truncated_and_says_so(target: Target) -> None:
    """500 words are embedded as far as the model reads, which equals embedding that part."""
    long = " ".join(["a red circle"] * 167)

    answer = target.send(EMBED_TEXT, signed_text(long))
    longer = target.send(EMBED_TEXT, signed_text(long + " and much more"))

    assert answer.body["truncated"] is True
    assert longer.vector == pytest.approx(answer.vector, abs=ROW_TOLERANCE)


def test_base64_holds_the_same_numbers(target: Target, drawings: list[Drawing]) -> None:
    """`encoding_format: base64` is little-endian float32 of the same vector; in a batch it is the default of items."""
    as_floats = target.send(EMBED_TEXT, signed_text("a blue square"))
    as_base64 = target.send(EMBED_TEXT, signed_text("a blue square", encoding_format="base64"))
    batch = signed_batch([drawing.url for drawing in drawings[:2]], encoding_format="base64")
    batch["items"][1]["encoding_format"] = "float"
    results = target.send(EMBED_IMAGE_BATCH, batch).body["results"]

    decoded = np.frombuffer(base64.b64decode(as_base64.body["embedding"]), dtype="<f4")
    assert as_floats.vector == pytest.approx(decoded, abs=1e-6)
    assert [str, list] == [type(result["embedding"]) for result in results]


def test_request_id_is_made_when_absent_and_unknown_fields_are_ignored(target: Target) -> None:
    """Old and new versions overlap during a rollout."""
    first = target.send(EMBED_TEXT, signed_text("a red circle", invented_tomorrow=1))
    second = target.send(EMBED_TEXT, signed_text("a red circle"))

    assert None is first.code
    assert first.body["request_id"] != second.body["request_id"]
