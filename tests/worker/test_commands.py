"""The command line: what it prints, where, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from worker.__main__ import main

from tests.worker.scripted import (
    FINGERPRINT,
    SECRET,
    Body,
    Reply,
    Script,
    Seen,
    answer,
    json_reply,
    page,
    scripted_server,
    success,
    vector_of,
)


def environ(script: Script, **variables: str) -> dict[str, str]:
    given = {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": script.base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
        "CLIP_RETRY_ATTEMPTS": "1",
    }
    return given | variables


def job(seen: Seen) -> Reply:
    """A serverless endpoint of another model."""
    members: Body = seen.body["input"]
    output: Body = {"status": "ok", "fingerprint": "bbbb"}
    if members["path"] != "/health":
        output = success(members, fingerprint="bbbb")
    return json_reply({"id": "job-1", "status": "COMPLETED", "output": output})


def fails_on_a_two(seen: Seen) -> Reply:
    body = success(seen.body)
    for item, result in zip(seen.body["items"], body["results"], strict=True):
        if "2" in item["image_url"]:
            del result["embedding"]
            result["error"] = {"code": "INVALID_IMAGE", "message": "the image cannot be decoded", "retryable": False}
    return json_reply(body)


def test_probe(capsys: pytest.CaptureFixture[str]) -> None:
    """A backend that is up is a line of a table and status 0."""
    with scripted_server(answer) as script:
        status = main(["probe"], environ(script))

    heading, line = capsys.readouterr().out.splitlines()
    assert 0 == status
    assert heading.startswith("BACKEND")
    assert ["runpod_pod", "ok", "ok", FINGERPRINT, "4", "-"] == line.split()[:6]


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        pytest.param(page(502), "BAD_GATEWAY", id="down"),
        pytest.param(json_reply({"status": "loading"}, 503), "loading", id="loading"),
    ],
)
def test_probe_of_a_backend_that_is_down(reply: Reply, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is not ready makes the status 1, for a scheduler, and the table says why."""
    with scripted_server(reply) as script:
        status = main(["probe"], environ(script))

    assert 1 == status
    assert shown in capsys.readouterr().out


def test_probe_of_backends_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is asked by itself; two models are a failure even when both are up."""
    with scripted_server(answer) as pod, scripted_server(job) as endpoint:
        fallback = {
            "CLIP_FALLBACK_BACKEND": "runpod_serverless",
            "RUNPOD_BASE_URL": endpoint.base_url,
            "RUNPOD_CLIP_ENDPOINT_ID": ".",
        }
        status = main(["probe"], environ(pod, **fallback))

    printed = capsys.readouterr().out
    assert 1 == status
    assert ["ok", "ok"] == [line.split()[1] for line in printed.splitlines()[1:3]]
    assert "the fingerprints differ" in printed


def test_probe_without_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is one line and status 2."""
    assert 2 == main(["probe"], {})
    assert "CLIP_INFERENCE_BACKEND: Field required\n" == capsys.readouterr().err


def test_embed_prints_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Images come first, in order; the vectors are the numbers of the service."""
    with scripted_server(answer) as script:
        arguments = ["embed", "--image", "http://a/1", "http://a/2?token=private", "--text", "a red circle"]
        status = main(arguments, environ(script))

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 0 == status
    assert [("image", 0), ("image", 1), ("text", 0)] == [(row["kind"], row["index"]) for row in rows]
    assert [vector_of("http://a/1"), vector_of("a red circle")] == [rows[0]["embedding"], rows[2]["embedding"]]
    assert "private" not in str(rows)


def test_embed_with_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed image is a row of NaN, a line on standard error without its URL, and status 1."""
    listed = tmp_path / "urls.txt"
    listed.write_text("http://a/1\n\nhttp://a/2?token=private\nhttp://a/3\n")
    out = tmp_path / "vectors.npy"
    with scripted_server(fails_on_a_two) as script:
        status = main(["embed", "--images-from", str(listed), "--out", str(out)], environ(script))

    vectors = np.load(out)
    printed = capsys.readouterr()
    assert 1 == status
    assert ((3, 4), np.dtype(np.float32)) == (vectors.shape, vectors.dtype)
    assert [False, True, False] == np.isnan(vectors).all(axis=1).tolist()
    assert printed.err.startswith("image 1: INVALID_IMAGE: the image cannot be decoded")
    assert "private" not in printed.err + printed.out


def test_embed_to_json_lines(tmp_path: Path) -> None:
    """A file of rows holds what would have been printed, errors in their places."""
    out = tmp_path / "rows.jsonl"
    with scripted_server(fails_on_a_two) as script:
        status = main(["embed", "--image", "http://a/1", "http://a/2", "--out", str(out)], environ(script))

    first, second = map(json.loads, out.read_text().splitlines())
    assert 1 == status
    assert (4, "INVALID_IMAGE") == (first["dim"], second["error"]["code"])


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        pytest.param(["embed"], "nothing to embed", id="nothing"),
        pytest.param(["embed", "--text", "x", "--out", "vectors.csv"], ".npy or .jsonl", id="unknown kind of file"),
        pytest.param(["embed", "--text", "x", "--out", "/nowhere/v.npy"], "/nowhere/v.npy", id="no such folder"),
        pytest.param(["embed", "--images-from", "/nowhere/urls"], "/nowhere/urls", id="no such list"),
    ],
)
def test_wrong_use(arguments: list[str], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is one line, before any request."""
    with scripted_server(answer) as script:
        status = main(arguments, environ(script))

    assert ([], 2) == (script.seen, status)
    [line] = capsys.readouterr().err.splitlines()
    assert cause in line


def test_as_a_process() -> None:
    """`python -m worker` is that command, its status is the process's, and no traceback is shown."""
    done = subprocess.run(
        [sys.executable, "-m", "worker", "probe"], env={}, capture_output=True, text=True, check=False
    )

    assert (2, "CLIP_INFERENCE_BACKEND: Field required\n") == (done.returncode, done.stderr)


def test_many_show_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """A long run shows how far it is, on standard error."""
    with scripted_server(answer) as script:
        main(["embed", "--image", *[f"http://a/{number}" for number in range(30)]], environ(script))

    printed = capsys.readouterr()
    assert 30 == len(printed.out.splitlines())
    assert "30/30" in printed.err
