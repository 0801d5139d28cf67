"""Fingerprints by other rules than the expected one are explained, not only refused."""

import os
import subprocess
import sys

import pytest
from clip_embedding_client import ClipClient, FingerprintMismatch, errors
from clip_embedding_client.fingerprints import version_of

from tests.client.scripted import FakeBackend, client_of, json_reply, scripted_server, success

OLD, OLD_OTHER = "a" * 16, "b" * 16
NEW, NEW_OTHER = "2-" + "a" * 16, "2-" + "b" * 16
NEWER = "3-" + "a" * 16

MADE_UNDER_1 = "made under version 1 of the rules"
ROLL_OUT_FIRST = "roll out the services first"


def client_over(*backends: FakeBackend, **given: str) -> ClipClient:
    return client_of(backends, **({"CLIP_RETRY_ATTEMPTS": "1"} | given))


@pytest.mark.parametrize(
    ("fingerprint", "expected"),
    [
        pytest.param(OLD, 1, id="version 1"),
        pytest.param(NEW, 2, id="version 2"),
        pytest.param("10-" + "0" * 16, 10, id="version 10"),
        pytest.param("A" * 16, None, id="capitals"),
        pytest.param("a" * 15, None, id="too short"),
        pytest.param("2-" + "a" * 17, None, id="too long"),
        pytest.param("-" + "a" * 16, None, id="no number"),
        pytest.param("\N{ARABIC-INDIC DIGIT TWO}-" + "a" * 16, None, id="another script's digit"),
        pytest.param("sha256:abc", None, id="another form"),
    ],
)
def test_version(fingerprint: str, expected: int | None) -> None:
    """The number before the dash; without one it is the first version."""
    assert expected == version_of(fingerprint)


@pytest.mark.parametrize(
    ("expected", "answered", "words"),
    [
        pytest.param(OLD, NEW, [MADE_UNDER_1, "answers by version 2", "compare", "embed", "rolled out"], id="1, 2"),
        pytest.param(NEW, OLD, [ROLL_OUT_FIRST, "versions 2 and 1"], id="2, 1"),
        pytest.param(NEW, NEWER, ["made under version 2 of the rules"], id="2, 3"),
    ],
)
@pytest.mark.parametrize("many", [pytest.param(False, id="text"), pytest.param(True, id="batch")])
def test_expected_fingerprint_of_another_version(expected: str, answered: str, words: list[str], many: bool) -> None:
    """The message says which rules the stored vectors were made under and what is to be done, in which order."""
    client = client_over(FakeBackend(fingerprint=answered), CLIP_EXPECTED_FINGERPRINT=expected)
    if many:
        [error] = client.embed_images(["http://a/"])
    else:
        with pytest.raises(FingerprintMismatch) as caught:
            client.embed_text("x")
        error = caught.value

    assert isinstance(error, FingerprintMismatch)
    assert [] == [word for word in [*words, expected, answered, "CLIP_EXPECTED_FINGERPRINT"] if word not in str(error)]


@pytest.mark.parametrize(
    ("expected", "answered"),
    [
        pytest.param(OLD, OLD_OTHER, id="both 1"),
        pytest.param(NEW, NEW_OTHER, id="both 2"),
        pytest.param("sha256:abc", NEW, id="another form"),
    ],
)
def test_another_model_by_the_same_rules(expected: str, answered: str) -> None:
    """Nothing is explained away: it is another model."""
    client = client_over(FakeBackend(fingerprint=answered), CLIP_EXPECTED_FINGERPRINT=expected)

    with pytest.raises(FingerprintMismatch) as caught:
        client.embed_text("x")

    assert caught.value.message.endswith("(CLIP_EXPECTED_FINGERPRINT)")


@pytest.mark.parametrize(
    ("of_primary", "of_fallback"), [pytest.param(NEW, OLD, id="2, 1"), pytest.param(OLD, NEW, id="1, 2")]
)
def test_backends_of_different_versions(of_primary: str, of_fallback: str) -> None:
    """In the middle of a rollout the fallback cannot be compared, and the message says what comes first."""
    primary, fallback = FakeBackend(fingerprint=of_primary), FakeBackend("runpod_serverless", of_fallback)
    client = client_over(primary, fallback)
    client.embed_text("x")
    primary.error = errors.ConnectionFailed("m")

    with pytest.raises(FingerprintMismatch, match=ROLL_OUT_FIRST) as caught:
        client.embed_text("x")

    assert "runpod_pod" in caught.value.message


def test_probe_explains_it_too() -> None:
    """The command that a scheduler runs says the same as the client."""
    health = json_reply({"status": "ok", "fingerprint": NEW})
    with scripted_server(health, lambda seen: json_reply(success(seen.body, fingerprint=NEW))) as script:
        environ = {
            "CLIP_INFERENCE_BACKEND": "runpod_pod",
            "CLIP_POD_BASE_URL": script.base_url,
            "EMBEDDING_HMAC_SECRET": "s",
            "CLIP_EXPECTED_FINGERPRINT": OLD,
        }
        command = [sys.executable, "-m", "clip_embedding_client", "probe"]
        done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert MADE_UNDER_1 in done.stdout
