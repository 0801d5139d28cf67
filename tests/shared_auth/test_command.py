"""`python -m shared_auth sign`, as a reader of the README uses it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared_auth import Authenticator, image_content_payload_id, image_payload_id, text_payload_id


def sign(*arguments: str, secret: str | None = "test-secret") -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "EMBEDDING_HMAC_SECRET"}
    if secret is not None:
        environment["EMBEDDING_HMAC_SECRET"] = secret
    command = [sys.executable, "-m", "shared_auth", "sign", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("arguments", "path", "payload_id"),
    [
        pytest.param(["--text", "a red circle"], "/v1/embed/text", text_payload_id("a red circle"), id="text"),
        pytest.param(["--image-url", "http://a/b"], "/v1/embed/image", image_payload_id("http://a/b"), id="image"),
        pytest.param(
            ["--image-url", "http://a/b", "--path", "/v1/embed/image-batch"],
            "/v1/embed/image-batch",
            image_payload_id("http://a/b"),
            id="image in a batch",
        ),
    ],
)
def test_prints_an_auth_object_that_verifies(arguments: list[str], path: str, payload_id: str) -> None:
    """The printed JSON is what goes into the request as `auth`."""
    Authenticator(["test-secret"]).verify(path, payload_id, json.loads(sign(*arguments).stdout))


def test_signs_the_bytes_of_a_file(tmp_path: Path) -> None:
    """What is signed of an image file is what is in it, whatever it is called and however it will be encoded."""
    (tmp_path / "image").write_bytes(b"\xff\xd8 bytes")
    auth = json.loads(sign("--image-file", str(tmp_path / "image")).stdout)

    Authenticator(["test-secret"]).verify("/v1/embed/image", image_content_payload_id(b"\xff\xd8 bytes"), auth)


def test_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    """With a line that names it, and no traceback."""
    done = sign("--image-file", str(tmp_path / "none"))

    assert 2 == done.returncode
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr


def test_refuses_without_a_secret() -> None:
    """Without the secret the command names the variable and fails."""
    done = sign("--text", "x", secret=None)

    assert (2, "EMBEDDING_HMAC_SECRET is not set\n") == (done.returncode, done.stderr)


def test_imports_the_standard_library_only() -> None:
    """A worker can take this package alone: it imports where no installed package can be seen."""
    done = subprocess.run([sys.executable, "-S", "-c", "import shared_auth"], capture_output=True, check=False)

    assert (0, b"") == (done.returncode, done.stderr)
