"""One call that its pod turned away and its endpoint answered, as one trace through client, pod and handler."""

import re
import subprocess
import sys

import pytest

from tools.testbed.process import ROOT

PAGE = ROOT / "docs" / "traces.md"
COMMAND = [sys.executable, "-m", "tools.trace_example"]
# What differs from run to run: ids, and times.
_ID, _TIME = re.compile(r"[0-9a-f]{32}"), re.compile(r" +[0-9]+\.[0-9] ms")


def without_figures(text: str) -> list[str]:
    return [_TIME.sub(" ms", _ID.sub("id", line)) for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def printed() -> str:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_a_call_that_falls_back_is_one_trace(printed: str) -> None:
    """All three have told of it under one id, each span below the one that asked for it."""
    lines = without_figures(printed)
    told = [line.split(" ms")[0].rstrip() for line in lines]

    assert "trace id" == lines[0]
    assert [
        ("clip-embedding-client", 0, "embed batch"),
        ("clip-embedding-client", 1, "POST runpod_pod"),
        ("clip-embedding-pod", 2, "POST /v1/embed/image-batch"),
        ("clip-embedding-client", 1, "POST runpod_pod"),
        ("clip-embedding-pod", 2, "POST /v1/embed/image-batch"),
        ("clip-embedding-client", 1, "GET runpod_pod"),
        ("clip-embedding-client", 1, "POST runpod_serverless"),
        ("clip-embedding-serverless", 2, "job /v1/embed/image-batch"),
        ("clip-embedding-serverless", 3, "download"),
        ("clip-embedding-serverless", 3, "decode"),
        ("clip-embedding-serverless", 3, "queue"),
        ("clip-embedding-serverless", 3, "forward"),
    ] == [_placed(line) for line in told[1:]]


def test_page_shows_what_the_command_prints(printed: str) -> None:
    """But for ids and times."""
    [shown] = re.findall(r"^```\n(trace .*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)

    assert without_figures(shown) == without_figures(printed)


def _placed(line: str) -> tuple[str, int, str]:
    """Service, depth and name of a line."""
    service, indented = line[:26].rstrip(), line[26:]
    name = indented.lstrip()
    return service, (len(indented) - len(name)) // 2, name
