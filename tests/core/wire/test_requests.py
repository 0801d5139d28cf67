"""Request models: what is accepted, and which field a refusal names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ValidationFailed
from core.wire.requests import ImageBatchRequest, ImageRequest, Request, TextRequest, request_id_of, validate

URL = "https://Example.com"


@pytest.mark.parametrize(
    ("model", "members", "field"),
    [
        pytest.param(ImageRequest, {}, "image_url", id="no url"),
        pytest.param(ImageRequest, {"image_url": 7}, "image_url", id="url is a number"),
        pytest.param(ImageRequest, {"image_url": ""}, "image_url", id="empty url"),
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
        pytest.param(TextRequest, {"text": ""}, "text", id="empty text"),
        pytest.param(TextRequest, {"text": "x" * 10_001}, "text", id="long text"),
        pytest.param(TextRequest, {"text": "\udfff"}, "text", id="lone surrogate in the text"),
    ],
)
def test_refusal_names_the_field(model: type[Request], members: dict[str, Any], field: str) -> None:
    """A wrong field is refused, and the message begins with where it is."""
    with pytest.raises(ValidationFailed) as caught:
        validate(model, members)

    assert caught.value.message.startswith(f"{field}: ")


def test_refusal_does_not_repeat_the_value() -> None:
    """A URL may be presigned: the message never shows what was sent."""
    with pytest.raises(ValidationFailed) as caught:
        validate(ImageRequest, {"image_url": "https://a/?X-Amz-Signature=abc" + "d" * 5000})

    assert "abc" not in caught.value.message


def test_url_is_kept_exactly() -> None:
    """The signature covers the URL as sent: no slash is added and no case is changed."""
    request = validate(ImageRequest, {"image_url": URL, "unknown": 1})

    assert (URL, True, None) == (request.image_url, request.normalize, request.request_id)


def test_batch_signs_every_item() -> None:
    """A batch yields each item's own payload and auth, in order."""
    items = [{"image_url": f"http://a/{n}", "request_id": str(n), "auth": {"ts": n}} for n in range(3)]

    signed = list(validate(ImageBatchRequest, {"items": items}).signed_payloads())

    assert [(f"http://a/{n}", {"ts": n}) for n in range(3)] == signed


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
FIELDS = ["image_url", "items", "text", "request_id", "normalize", "encoding_format", "auth", "other"]
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
        request = validate(model, members)
    except ValidationFailed:
        return

    assert isinstance(request, model)
