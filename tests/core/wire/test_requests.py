"""Request models: what is accepted, and which field a refusal names."""

import base64
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.byte_budget import ByteBudget
from core.errors import ImageTooLarge, InvalidImage, Overloaded, ServiceError, ValidationFailed
from core.images.content import SentImage, SentImages, SentLimits
from core.wire.long_strings import LongString
from core.wire.requests import ImageBatchRequest, ImageRequest, Request, TextRequest, request_id_of, validate
from shared_auth import image_content_payload_id

URL = "https://Example.com"
LONG = LongString(memoryview(b"x" * 200_000))
MAX_IMAGE_BYTES = 100


def sent_images(max_bytes: int = 10 * MAX_IMAGE_BYTES) -> SentImages:
    return SentImages(SentLimits(MAX_IMAGE_BYTES, ByteBudget(max_bytes)))


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("model", "members", "field"),
    [
        pytest.param(ImageRequest, {}, "image_url", id="no url"),
        pytest.param(ImageRequest, {"image_url": 7}, "image_url", id="url is a number"),
        pytest.param(ImageRequest, {"image_url": ""}, "image_url", id="empty url"),
        pytest.param(ImageRequest, {"image_url": None, "image_b64": None}, "image_url", id="neither"),
        pytest.param(ImageRequest, {"image_url": URL, "image_b64": "AAAA"}, "image_url", id="both"),
        pytest.param(ImageRequest, {"image_url": URL, "image_b64": "no base64"}, "image_url", id="both, one broken"),
        pytest.param(ImageRequest, {"image_b64": 7}, "image_b64", id="content is a number"),
        pytest.param(ImageRequest, {"image_b64": {"a": 1}}, "image_b64", id="content is an object"),
        pytest.param(ImageRequest, {"image_url": LONG}, "image_url: String should have at most 4096", id="longer url"),
        pytest.param(
            TextRequest, {"text": LONG}, "text: String should have at most 10000 characters", id="longer text"
        ),
        pytest.param(ImageRequest, {"image_url": URL, "request_id": LONG}, "request_id", id="longer id"),
        pytest.param(ImageRequest, {"image_url": "h" * 4097}, "image_url", id="long url"),
        pytest.param(ImageRequest, {"image_url": "http://\ud800"}, "image_url", id="lone surrogate in the url"),
        pytest.param(ImageRequest, {"image_url": URL, "normalize": "yes"}, "normalize", id="normalize is a string"),
        pytest.param(ImageRequest, {"image_url": URL, "normalize": 1}, "normalize", id="normalize is a number"),
        pytest.param(ImageRequest, {"image_url": URL, "request_id": ""}, "request_id", id="empty id"),
        pytest.param(ImageRequest, {"image_url": URL, "request_id": "x" * 129}, "request_id", id="long id"),
        pytest.param(ImageRequest, {"image_url": URL, "request_id": "a\nb"}, "request_id", id="newline in the id"),
        pytest.param(
            ImageRequest, {"image_url": URL, "encoding_format": "hex"}, "encoding_format", id="unknown encoding"
        ),
        pytest.param(ImageBatchRequest, {"items": []}, "items", id="no items"),
        pytest.param(ImageBatchRequest, {"items": {}}, "items", id="items is an object"),
        pytest.param(ImageBatchRequest, {"items": [7]}, "items[0]", id="item is a number"),
        pytest.param(
            ImageBatchRequest,
            {"items": [{"image_url": URL, "request_id": "a"}, {"image_url": URL}]},
            "items[1].request_id",
            id="item without id",
        ),
        pytest.param(
            ImageBatchRequest,
            {"items": [{"image_url": URL, "request_id": "a"}, {"request_id": "b"}]},
            "items[1].image_url",
            id="item with neither",
        ),
        pytest.param(TextRequest, {"text": ""}, "text", id="empty text"),
        pytest.param(TextRequest, {"text": "x" * 10_001}, "text", id="long text"),
        pytest.param(TextRequest, {"text": "\udfff"}, "text", id="lone surrogate in the text"),
    ],
)
def test_refusal_names_the_field(model: type[Request], members: dict[str, Any], field: str) -> None:
    """A wrong field is refused, and the message begins with where it is."""
    with pytest.raises(ValidationFailed) as caught:
        validate(model, members, sent_images())

    assert caught.value.message.startswith(field if ": " in field else f"{field}: ")


def test_refusal_does_not_repeat_the_value() -> None:
    """A URL may be presigned: the message never shows what was sent."""
    with pytest.raises(ValidationFailed) as caught:
        validate(ImageRequest, {"image_url": "https://a/?X-Amz-Signature=abc" + "d" * 5000}, sent_images())

    assert "abc" not in caught.value.message


def test_url_is_kept_exactly() -> None:
    """The signature covers the URL as sent: no slash is added and no case is changed."""
    request = validate(ImageRequest, {"image_url": URL, "unknown": 1}, sent_images())

    assert (URL, True, None) == (request.image_url, request.normalize, request.request_id)


def test_batch_signs_every_item() -> None:
    """A batch yields each item's own payload and auth, in order."""
    items = [{"image_url": f"http://a/{n}", "request_id": str(n), "auth": {"ts": n}} for n in range(3)]

    signed = list(validate(ImageBatchRequest, {"items": items}, sent_images()).signed_payloads())

    assert [(f"http://a/{n}", {"ts": n}) for n in range(3)] == signed


def test_image_that_was_sent_is_signed_by_its_bytes() -> None:
    """Mixed with URLs in one batch; `null` is as good as absent."""
    items = [
        {"image_b64": as_base64(b"one"), "request_id": "a", "auth": 1, "image_url": None},
        {"image_url": URL, "request_id": "b", "auth": 2, "image_b64": None},
        {"image_b64": as_base64(b"two"), "request_id": "c", "auth": 3},
    ]

    signed = list(validate(ImageBatchRequest, {"items": items}, sent_images()).signed_payloads())

    assert [(image_content_payload_id(b"one"), 1), (URL, 2), (image_content_payload_id(b"two"), 3)] == signed


@pytest.mark.parametrize(
    ("text", "error", "is_signed"),
    [
        pytest.param("", InvalidImage, False, id="empty"),
        pytest.param("AAA", InvalidImage, False, id="no padding"),
        pytest.param("AAAA====", InvalidImage, False, id="too much padding"),
        pytest.param("AA==AAAA", InvalidImage, False, id="padding inside"),
        pytest.param("AAA-", InvalidImage, False, id="the other alphabet"),
        pytest.param("AAAA\n", InvalidImage, False, id="line break"),
        pytest.param("\ud800AAA", InvalidImage, False, id="lone surrogate"),
        pytest.param(as_base64(b"x" * (MAX_IMAGE_BYTES + 1)), ImageTooLarge, True, id="one byte too many"),
    ],
)
def test_image_that_cannot_be_had_is_its_own_error(text: str, error: type[ServiceError], is_signed: bool) -> None:
    """No refusal of the request; what has bytes is checked like any other, and for what has none nothing is done."""
    request = validate(ImageRequest, {"image_b64": text}, sent_images())

    assert isinstance(request.image, SentImage)
    assert isinstance(request.image.error, error)
    assert request.image.content is None
    assert is_signed == bool(list(request.signed_payloads()))


def test_images_that_do_not_fit_are_refused_together() -> None:
    """The whole request, at once, and with an error that can be retried; what was taken is given back."""
    budget = ByteBudget(2 * MAX_IMAGE_BYTES)
    items = [{"image_b64": as_base64(bytes(MAX_IMAGE_BYTES)), "request_id": str(number)} for number in range(3)]
    with closing(SentImages(SentLimits(MAX_IMAGE_BYTES, budget))) as images, pytest.raises(Overloaded):
        validate(ImageBatchRequest, {"items": items}, images)

    assert 0 == budget.used_bytes


@pytest.mark.parametrize(
    "given_id",
    [
        pytest.param(None, id="missing"),
        pytest.param(7, id="a number"),
        pytest.param("", id="empty"),
        pytest.param("a\r\nSet-Cookie: b", id="line break"),
    ],
)
def test_invalid_request_id_is_replaced(given_id: object) -> None:
    """An answer has an id even when the request's own cannot be used."""
    assert 32 == len(request_id_of({"request_id": given_id}))


JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
FIELDS = ["image_url", "image_b64", "items", "text", "request_id", "normalize", "encoding_format", "auth", "other"]
OBJECTS = st.dictionaries(
    st.sampled_from(FIELDS),
    st.recursive(
        JSON_VALUES,
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), children),
        max_leaves=8,
    ),
)


@given(model=st.sampled_from([ImageRequest, ImageBatchRequest, TextRequest]), members=OBJECTS)
def test_any_object_is_a_request_or_refused(model: type[Request], members: dict[str, Any]) -> None:
    """For any JSON object: a request, or ValidationFailed."""
    try:
        request = validate(model, members, sent_images())
    except ValidationFailed:
        return

    assert isinstance(request, model)
