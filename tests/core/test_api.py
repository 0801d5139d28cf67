"""The way from a request to its call: what is checked before anything runs."""

import base64
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.access import Access
from core.api import Api
from core.batching.items import Modality
from core.byte_budget import ByteBudget
from core.errors import AuthFailed, InvalidImage, ServiceError, ValidationFailed
from core.images.content import SentLimits
from core.operations import Model, max_batch_sizes
from core.settings import load_settings
from shared_auth import Authenticator, image_content_payload_id, image_payload_id
from shared_auth.contract import EMBED_IMAGE_BATCH

NOW_S = 1_703_001_234
MAX_ITEMS = 8
MAX_IMAGE_BYTES = 1000

Body = dict[str, Any]


def api(*, signed: bool = True, budget: ByteBudget | None = None) -> Api:
    """`prepare` never asks the model."""
    authenticator = Authenticator(["test-secret"], clock=lambda: NOW_S) if signed else None
    model = Model(cast("Any", None), cast("Any", None), dict.fromkeys(Modality, MAX_ITEMS))
    sent_limits = SentLimits(MAX_IMAGE_BYTES, budget or ByteBudget(MAX_IMAGE_BYTES * MAX_ITEMS))
    return Api(model, Access(authenticator, {}), sent_limits=sent_limits, request_timeout_s=30.0)


def item(url: str, *, age_s: int = 0, secret: str = "test-secret") -> Body:
    signer = Authenticator([secret], clock=lambda: NOW_S - age_s)
    auth = signer.sign(EMBED_IMAGE_BATCH, image_payload_id(url)).as_dict()
    return {"image_url": url, "request_id": "one", "auth": auth}


def refusal(items: list[Body], *, signed: bool = True) -> ServiceError | None:
    try:
        api(signed=signed).prepare(EMBED_IMAGE_BATCH, {"items": items}, request_id="one")
    except ServiceError as error:
        return error
    return None


@given(
    st.lists(st.tuples(st.sampled_from(["http://a/", "http://b/"]), st.integers(0, 2)), min_size=1, max_size=MAX_ITEMS)
)
def test_any_batch_is_refused_at_its_first_repeated_signature(signed: list[tuple[str, int]]) -> None:
    """Payload and second make a signature: the first pair that was there before is the item that is named."""
    repeated = [position for position, pair in enumerate(signed) if pair in signed[:position]]

    error = refusal([item(url, age_s=age_s) for url, age_s in signed])

    if not repeated:
        assert error is None
        return
    assert isinstance(error, ValidationFailed)
    assert error.message.startswith(f"items[{repeated[0]}].auth: ")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(item("http://b/", secret="another"), id="forged"),
        pytest.param({"image_url": "http://b/", "request_id": "one"}, id="none"),
    ],
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_bad_signature_comes_before_a_repeated_one(bad: Body, position: int) -> None:
    """Who cannot sign learns nothing about a batch, wherever the bad item stands and however often."""
    items = [item("http://a/"), item("http://a/")]
    items[position:position] = [bad, bad]

    assert isinstance(refusal(items), AuthFailed)


def content(data: bytes | None, **fields: Any) -> Body:  # noqa: ANN401
    """An item by content, signed; None is what is no base64."""
    auth = Authenticator(["test-secret"], clock=lambda: NOW_S).sign(
        EMBED_IMAGE_BATCH, image_content_payload_id(data or b"")
    )
    text = "no base64" if data is None else base64.b64encode(data).decode()
    return {"image_b64": text, "request_id": "one", "auth": auth.as_dict(), **fields}


def test_image_without_bytes_needs_no_signature_beside_others() -> None:
    """There is nothing that anybody could have signed; but a caller who has shown nothing at all is refused."""
    broken = content(None, auth=None)

    assert None is refusal([broken, content(b"x"), broken])
    assert isinstance(refusal([broken, broken]), InvalidImage)
    assert isinstance(refusal([broken, content(b"x", auth=None)]), AuthFailed)


@pytest.mark.parametrize("signed", [pytest.param(True, id="ready to run"), pytest.param(False, id="refused")])
def test_images_that_were_sent_are_let_go_of(signed: bool) -> None:
    """With the refusal, or when the call has been run, whatever became of that."""
    budget = ByteBudget(MAX_IMAGE_BYTES)
    target, refused = api(budget=budget), None
    item = content(b"x") if signed else content(b"x", auth=None)
    try:
        call = target.prepare(EMBED_IMAGE_BATCH, {"items": [item]}, request_id="one")
    except AuthFailed as error:
        # Whoever keeps the error keeps its traceback, and the request with it; not the bytes.
        refused = error
        assert not signed
        assert refused.__traceback__ is not None
    else:
        assert 1 == budget.used_bytes
        with pytest.raises(AttributeError):
            call.run()

    assert 0 == budget.used_bytes


def test_where_nothing_is_verified_nothing_is_compared() -> None:
    """Without an authenticator there are no signatures: equal ones, or none, are no reason to refuse."""
    same = item("http://a/")

    assert None is refusal([same, same], signed=False)
    assert None is refusal([{"image_url": "http://a/", "request_id": "one"}] * 2, signed=False)


@pytest.mark.parametrize(
    ("places", "sizes"),
    [
        pytest.param("1", {Modality.IMAGE: 1, Modality.TEXT: 1}, id="one place"),
        pytest.param("100", {Modality.IMAGE: 16, Modality.TEXT: 100}, id="room for images"),
        pytest.param("", {Modality.IMAGE: 16, Modality.TEXT: 256}, id="room for both"),
    ],
)
def test_batch_that_never_fits_is_too_large(places: str, sizes: dict[Modality, int]) -> None:
    """Not OVERLOADED, after which it is sent again and again."""
    assert sizes == max_batch_sizes(load_settings({"ALLOW_INSECURE_AUTH": "1", "MAX_QUEUED_ITEMS": places}))
