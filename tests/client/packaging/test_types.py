"""A user's type checker knows what the client takes and gives: mypy --strict against the installed client."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.packaging import example
from tests.client.packaging.environment import Environment
from tools.docs_check.shell import clean_environment

# `assert_type` is exact: Any in the place of one of these would be an error.
GIVEN = """
from collections.abc import Mapping
from contextlib import aclosing
from typing import assert_type

import numpy.typing as npt
from clip_embedding_client import Health

Result = Embedding | ClipClientError


async def given(client: ClipClient, other: AsyncClipClient) -> None:
    assert_type(client.embed_image("https://example.com/a.png"), Embedding)
    assert_type(client.embed_text("a red circle").vector, npt.NDArray[np.float32])
    assert_type(client.embed_images([b"", ImageItem("https://example.com/a.png")]), list[Result])
    assert_type(client.embed_texts(["a"]), list[Result])
    assert_type(next(client.iter_images([])), Result)
    assert_type(next(client.iter_texts([])), Result)
    assert_type(client.health(), Health)
    assert_type(client.counters, Mapping[str, int])
    assert_type(await other.embed_image(b""), Embedding)
    assert_type(await other.embed_text("a"), Embedding)
    assert_type(await other.embed_images([]), list[Result])
    async with aclosing(other.iter_images([])) as images, aclosing(other.iter_texts([])) as texts:
        assert_type(await anext(images), Result)
        assert_type(await anext(texts), Result)
    assert_type(await other.health(), Health)
    with ClipClient() as same:
        assert_type(same, ClipClient)
    async with AsyncClipClient() as same_other:
        assert_type(same_other, AsyncClipClient)
    assert_type(ClientSettings.from_environ(), ClientSettings)
    assert_type(ClipClientError("").code, str)
    assert_type(ClipClientError("").retryable, bool)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy has found out about libraries."""
    return tmp_path_factory.mktemp("mypy")


def checked(environment: Environment, text: str, folder: Path, cache: Path) -> "subprocess.CompletedProcess[str]":
    """What mypy of this machine says about a file of a user in this environment."""
    (folder / "user.py").write_text(text)
    (folder / "nothing.ini").write_text("[mypy]\n")
    options = [
        "--strict",
        "--config-file=nothing.ini",
        f"--cache-dir={cache}",
        f"--python-executable={environment.python}",
        "user.py",
    ]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_example_has_types(installed: Environment, tmp_path: Path, cache: Path) -> None:
    """Every result is what the documents say, and none is Any."""
    done = checked(installed, Path(example.__file__).read_text("utf-8") + GIVEN, tmp_path, cache)

    assert (0, "Success: no issues found in 1 source file\n") == (done.returncode, done.stdout)


# Each line with the code of what mypy says of it.
WRONG = {
    "from clip_embedding_client import AnotherClient": "attr-defined",
    "client.embed_image(7)": "arg-type",
    "client.embed_image(None)": "arg-type",
    "client.embed_text(b'')": "arg-type",
    "client.embed_text('a', retries=3)": "call-arg",
    "client.embed_images(['https://example.com/a.png'])[0].vector": "union-attr",
    "ClientSettings()": "call-arg",
    "client.counters['retries'] = 0": "index",
}


def test_wrong_use_is_found(installed: Environment, tmp_path: Path, cache: Path) -> None:
    """Also where Pillow is not installed, whose images the client takes: Any there would let everything through."""
    begin = "from clip_embedding_client import ClientSettings, ClipClient\n\nclient = ClipClient()\n"
    said = checked(installed, begin + "\n".join(WRONG), tmp_path, cache).stdout
    found = {int(line): code for line, code in re.findall(r"^user\.py:(\d+): error: .*\[([a-z-]+)\]$", said, re.M)}

    assert dict(enumerate(WRONG.values(), start=4)) == found
