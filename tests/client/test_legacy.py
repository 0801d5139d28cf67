"""The adapter for the old system's callers: what it takes, what it gives, and one client per process."""

import multiprocessing
from collections.abc import Iterator

import pytest
from clip_embedding_client import ClipClient, errors
from clip_embedding_client.legacy import LegacyClipClient, LegacyItem, get_clip_inference_client

from tests.client.scripted import SECRET, Answer, FakeTime, Script, answer, json_reply, page, scripted_server, settings


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted_server(answer) as running:
        yield running


def legacy_client(script: Script, **given: str) -> LegacyClipClient:
    chosen = settings(CLIP_POD_BASE_URL=script.base_url, CLIP_RETRY_ATTEMPTS="1", **given)
    return LegacyClipClient(ClipClient(chosen, clock=FakeTime().clock()))


@pytest.mark.parametrize(
    ("item", "request_id", "normalize"),
    [
        pytest.param({"image_url": "http://a/", "request_id": "mine"}, "mine", True, id="dict"),
        pytest.param({"image_url": "http://a/", "request_id": "mine", "scene": 7}, "mine", True, id="other members"),
        pytest.param({"image_url": "http://a/", "normalize": False}, None, False, id="not normalised"),
        pytest.param({"image_url": "http://a/", "request_id": None}, None, True, id="no id"),
        pytest.param(("http://a/", "mine"), "mine", True, id="pair"),
        pytest.param(["http://a/", None], None, True, id="list without id"),
    ],
)
def test_forms_of_an_item(script: Script, item: LegacyItem, request_id: str | None, normalize: bool) -> None:
    """All forms send the same; an id is made where there is none, and comes back."""
    client = legacy_client(script)
    [result] = client.embed_image_batch([item])
    client.close()

    [sent] = script.seen[0].body["items"]
    assert ("http://a/", normalize) == (sent["image_url"], sent["normalize"])
    assert sent["request_id"] == result["request_id"]
    assert request_id in (None, result["request_id"])


@pytest.mark.parametrize(
    "item",
    [
        pytest.param({"url": "http://a/"}, id="another name"),
        pytest.param({"image_url": None}, id="no URL"),
        pytest.param({"image_url": "http://a/", "request_id": 7}, id="number as id"),
        pytest.param({"image_url": "http://a/", "normalize": "no"}, id="text as flag"),
        pytest.param("ab", id="two letters are no pair"),
        pytest.param(("http://a/", "b", "c"), id="three"),
        pytest.param(("http://a/",), id="one"),
        pytest.param(7, id="number"),
    ],
)
def test_what_is_no_item(script: Script, item: LegacyItem) -> None:
    """It is refused by its position before anything is sent."""
    with pytest.raises(errors.ValidationFailed, match="item 1"):
        legacy_client(script).embed_image_batch([{"image_url": "http://a/"}, item])

    assert [] == script.seen


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        pytest.param(answer, True, id="ready"),
        pytest.param(json_reply({"status": "loading"}, 503), False, id="loading"),
        pytest.param(page(502), False, id="down"),
        pytest.param(json_reply({"status": "\x1b[2J"}), False, id="not the contract's"),
    ],
)
def test_health_check(reply: Answer, expected: bool) -> None:
    """A truth value, whatever is the matter."""
    with scripted_server(reply) as script:
        assert expected is legacy_client(script).health_check()


def test_errors_are_typed() -> None:
    """A single call raises what the new client raises; so does a client without a backend."""
    refused = {"code": "INVALID_IMAGE", "message": "m", "retryable": False}
    with scripted_server(json_reply({"error": refused}, 422)) as script, pytest.raises(errors.InvalidImage):
        legacy_client(script).embed_image_url("http://a/")
    off = LegacyClipClient(ClipClient(settings(CLIP_INFERENCE_BACKEND="off")))
    with pytest.raises(errors.BackendOff):
        off.embed_text("x")
    assert not off.health_check()


def _identity_in_child(queue: "multiprocessing.Queue[int]") -> None:
    queue.put(id(get_clip_inference_client(settings())))


def test_one_client_per_process_and_settings() -> None:
    """The same settings give the same client, others another one, and a forked process its own."""
    first, other = settings(), settings(CLIP_BATCH_SIZE="3")
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()

    client = get_clip_inference_client(first)
    child = context.Process(target=_identity_in_child, args=(queue,))
    child.start()
    of_child = queue.get(timeout=60)
    child.join(60)

    assert client is get_clip_inference_client(settings())
    assert client is not get_clip_inference_client(other)
    assert id(client) != of_child


def test_settings_of_the_environment(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """None reads the environment, once."""
    environ = {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": script.base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    client = get_clip_inference_client()
    monkeypatch.delenv("CLIP_POD_BASE_URL")

    assert client is get_clip_inference_client(None)
    assert "query-1" == client.embed_text("x", "query-1")["request_id"]
    client.close()


def test_closed_client_is_not_given_again() -> None:
    """Who closes the process's client, and asks for it once more, gets one that works."""
    chosen = settings(CLIP_BATCH_SIZE="5")
    closed = get_clip_inference_client(chosen)
    closed.close()

    assert closed is not get_clip_inference_client(chosen)


def test_settings_object_of_the_old_system() -> None:
    """Its names meant other things: it is refused, not half understood."""
    with pytest.raises(errors.ConfigurationError, match="ClientSettings"):
        get_clip_inference_client(object())  # type: ignore[arg-type]
