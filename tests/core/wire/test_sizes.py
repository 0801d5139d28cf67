"""How large a body may be follows from what may be in it."""

import json

import pytest

from core.errors import StartError
from core.settings import load_settings
from core.wire.sizes import max_body_bytes
from shared_auth.contract import MAX_REQUEST_ID_CHARACTERS, MAX_TEXT_CHARACTERS, MAX_URL_CHARACTERS

AUTH = {"ts": 1703001234, "sig": "0" * 64}


def limit(**settings: str) -> int:
    return max_body_bytes(load_settings({"ALLOW_INSECURE_AUTH": "1", **settings}))


def item(**fields: str) -> dict[str, object]:
    """With every other member as long as it may be, in a client that escapes all it can."""
    members = {"request_id": "😀" * MAX_REQUEST_ID_CHARACTERS, "normalize": False, "encoding_format": "base64"}
    return {**fields, **members, "auth": AUTH}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"MAX_BATCH_SIZE": "3", "MAX_TEXT_BATCH_SIZE": "1", "MAX_IMAGE_SIZE_BYTES": "1000"}, id="small"),
    ],
)
def test_largest_batches_fit(settings: dict[str, str]) -> None:
    """Of images, of addresses and of texts, whatever the client's JSON looks like."""
    read = load_settings({"ALLOW_INSECURE_AUTH": "1", **settings})
    content = "A" * (-(-read.max_image_size_bytes // 3) * 4)
    images = [item(image_b64=content)] * read.max_batch_size
    urls = [item(image_url="é" * MAX_URL_CHARACTERS)] * read.max_batch_size
    texts = [item(text="😀" * MAX_TEXT_CHARACTERS)] * read.max_text_batch_size

    for items in (images, urls, texts):
        assert len(json.dumps({"items": items}, indent=2)) <= max_body_bytes(read)


def test_limit_that_is_set() -> None:
    """Holds, as far as it may be held at all; what follows from other settings is cut there."""
    assert 1000 == limit(MAX_BODY_BYTES="1000")
    assert 20_971_520 == limit(MAX_IMAGE_BYTES_IN_FLIGHT="20971520")
    with pytest.raises(StartError, match="MAX_BODY_BYTES: must be at most MAX_IMAGE_BYTES_IN_FLIGHT"):
        limit(MAX_BODY_BYTES="20971521", MAX_IMAGE_BYTES_IN_FLIGHT="20971520")
