"""The signature rule: fixed vectors, every way to be wrong, and the window's edges."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_auth import (
    DEFAULT_CLIENT,
    Authenticator,
    AuthError,
    BadSignature,
    ExpiredSignature,
    MalformedAuth,
    UnsignablePayload,
    Verified,
    canonical_message,
    image_payload_id,
    legacy_message,
    text_payload_id,
)

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
PATH = "/v1/embed/image"
URL = "https://example.com/a.jpg"
NOW_S = 1_703_001_234


def authenticator(*secrets: str, now_s: float = NOW_S, window_s: int = 120) -> Authenticator:
    return Authenticator(secrets or ("test-secret",), window_s=window_s, clock=lambda: now_s)


def payload_id(vector: dict[str, Any]) -> str:
    return image_payload_id(vector["image_url"]) if "image_url" in vector else text_payload_id(vector["text"])


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    """The fixed vectors give exactly this message and this signature, and verify."""
    signer = authenticator(vector["secret"], now_s=vector["ts"])

    assert vector["message"].encode() == canonical_message(vector["path"], payload_id(vector), vector["ts"])
    assert {"ts": vector["ts"], "sig": vector["sig"]} == signer.sign(vector["path"], payload_id(vector)).as_dict()
    signer.verify(vector["path"], payload_id(vector), {"ts": vector["ts"], "sig": vector["sig"]})


@pytest.mark.parametrize("vector", VECTORS["legacy"], ids=lambda vector: vector["name"])
def test_legacy_vector(vector: dict[str, Any]) -> None:
    """Old serverless signatures verify as legacy, and never as the current form."""
    signer = authenticator(vector["secret"], now_s=vector["ts"])
    auth = {"ts": vector["ts"], "sig": vector["sig"]}

    assert vector["message"].encode() == legacy_message(vector["image_url"], vector["ts"])
    signer.verify_legacy(vector["image_url"], auth)
    with pytest.raises(BadSignature):
        signer.verify(PATH, vector["image_url"], auth)


def test_other_path_url_or_secret_is_refused() -> None:
    """A signature holds for one path, one payload and one secret."""
    auth = authenticator().sign(PATH, URL).as_dict()

    with pytest.raises(BadSignature):
        authenticator().verify("/v1/embed/image-batch", URL, auth)
    with pytest.raises(BadSignature):
        authenticator().verify(PATH, URL + "/", auth)
    with pytest.raises(BadSignature):
        authenticator("other").verify(PATH, URL, auth)


def test_rotation_accepts_both_secrets() -> None:
    """While rotating, what either secret signed is accepted, and signing uses the first."""
    both = authenticator("new", "old")

    both.verify(PATH, URL, authenticator("old").sign(PATH, URL).as_dict())
    both.verify(PATH, URL, authenticator("new").sign(PATH, URL).as_dict())
    assert authenticator("new").sign(PATH, URL) == both.sign(PATH, URL)


@pytest.mark.parametrize(
    ("age_s", "accepted"),
    [
        pytest.param(119, True, id="one second inside the past"),
        pytest.param(120, True, id="the last second of the past"),
        pytest.param(121, False, id="one second past"),
        pytest.param(-120, True, id="the last second of the future"),
        pytest.param(-121, False, id="one second too far in the future"),
    ],
)
def test_window_edges(age_s: int, accepted: bool) -> None:
    """The window is closed at both ends."""
    auth = authenticator(now_s=NOW_S).sign(PATH, URL).as_dict()
    later = authenticator(now_s=NOW_S + age_s)

    if accepted:
        later.verify(PATH, URL, auth)
    else:
        with pytest.raises(ExpiredSignature):
            later.verify(PATH, URL, auth)


def test_wrong_signature_is_refused_before_the_window_is_looked_at() -> None:
    """An old and wrong signature is wrong, not expired: the clock tells a guesser nothing."""
    with pytest.raises(BadSignature):
        authenticator().verify(PATH, URL, {"ts": NOW_S - 10_000, "sig": "0" * 64})


SIG = "0" * 64


@pytest.mark.parametrize(
    "auth",
    [
        pytest.param(None, id="missing"),
        pytest.param("x", id="a string"),
        pytest.param([], id="a list"),
        pytest.param({}, id="empty"),
        pytest.param({"ts": NOW_S}, id="no sig"),
        pytest.param({"sig": SIG}, id="no ts"),
        pytest.param({"ts": str(NOW_S), "sig": SIG}, id="ts as a string"),
        pytest.param({"ts": float(NOW_S), "sig": SIG}, id="ts as a float"),
        pytest.param({"ts": True, "sig": SIG}, id="ts as a bool"),
        pytest.param({"ts": -NOW_S, "sig": SIG}, id="negative ts"),
        pytest.param({"ts": 999_999_999, "sig": SIG}, id="nine digits"),
        pytest.param({"ts": 10**10, "sig": SIG}, id="eleven digits"),
        pytest.param({"ts": 10**5000, "sig": SIG}, id="five thousand digits"),
        pytest.param({"ts": NOW_S, "sig": SIG.replace("0", "A")}, id="upper case"),
        pytest.param({"ts": NOW_S, "sig": SIG[:-1]}, id="63 digits"),
        pytest.param({"ts": NOW_S, "sig": SIG + "\n"}, id="trailing newline"),
        pytest.param({"ts": NOW_S, "sig": "\uff10" * 64}, id="full-width digits"),
        pytest.param({"ts": NOW_S, "sig": SIG.encode()}, id="bytes"),
    ],
)
def test_malformed_auth(auth: object) -> None:
    """Anything but the exact shape is malformed."""
    with pytest.raises(MalformedAuth):
        authenticator().verify(PATH, URL, auth)


def test_lone_surrogate_cannot_be_signed() -> None:
    """Text that is not valid Unicode is an AuthError of its own, not a UnicodeEncodeError."""
    with pytest.raises(UnsignablePayload):
        text_payload_id("\ud800")
    with pytest.raises(UnsignablePayload):
        authenticator().verify(PATH, "http://a/\udfff", {"ts": NOW_S, "sig": SIG})


@pytest.mark.parametrize("secrets", [pytest.param([], id="none"), pytest.param(["a", ""], id="an empty one")])
def test_no_authenticator_without_a_secret(secrets: list[str]) -> None:
    """An empty secret would make every signature forgeable."""
    with pytest.raises(ValueError, match="secret"):
        Authenticator(secrets)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["ts", "sig", "x"]), children),
    max_leaves=6,
)


@given(path=st.text(), payload=st.text(), auth=ANY_JSON)
def test_verify_raises_nothing_but_auth_errors(path: str, payload: str, auth: object) -> None:
    """Whatever a stranger sends is refused by an AuthError: nobody guesses a MAC, and nothing else comes out."""
    with pytest.raises(AuthError):
        authenticator().verify(path, payload, auth)


@given(payload=st.text(alphabet=st.characters(exclude_categories=["Cs"])), secret=st.text(min_size=1))
def test_what_is_signed_verifies(payload: str, secret: str) -> None:
    """Signing and verifying agree for every payload that is valid Unicode."""
    try:
        signer = authenticator(secret)
    except UnicodeEncodeError:
        return
    signature = signer.sign(PATH, payload)

    assert Verified(signature, DEFAULT_CLIENT) == signer.verify(PATH, payload, signature.as_dict())
