"""The command line: what it prints, where, and its exit status."""

import json
import os
import pty
import subprocess
import termios
from pathlib import Path

import numpy as np
import pytest
from clip_embedding_client.__main__ import main

from tests.client.command_line import COMMAND, PYTHONPATH, environ, refuses_marked
from tests.client.scripted import (
    FINGERPRINT,
    Body,
    Reply,
    Seen,
    answer,
    error_reply,
    json_reply,
    page,
    scripted_server,
    success,
    vector_of,
)


def job(seen: Seen) -> Reply:
    """A serverless endpoint of another model."""
    members: Body = seen.body["input"]
    output: Body = {"status": "ok", "fingerprint": "bbbb"}
    if members["path"] != "/health":
        output = success(members, fingerprint="bbbb")
    return json_reply({"id": "job-1", "status": "COMPLETED", "output": output})


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
    assert "CLIP_INFERENCE_BACKEND is not set\n" == capsys.readouterr().err


def test_embed_prints_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Images come first, in order; the vectors are the numbers of the service."""
    with scripted_server(answer) as script:
        arguments = ["embed", "--image", "http://a/1", "http://a/2?token=private", "--text", "a red circle"]
        status = main(arguments, environ(script))

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 0 == status
    assert [("image", 0), ("image", 1), ("text", 0)] == [(row["kind"], row["index"]) for row in rows]
    assert [vector_of("http://a/1"), vector_of("a red circle")] == [rows[0]["embedding"], rows[2]["embedding"]]
    assert ["http://a/1", "http://a/2?token=private", "a red circle"] == [row["input"] for row in rows]


def test_embed_with_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed image is a row of NaN, a line on standard error without its URL, and status 1."""
    listed = tmp_path / "urls.txt"
    listed.write_text("http://a/1\n\nhttp://a/!?token=private\nhttp://a/3\n")
    out = tmp_path / "vectors.npy"
    with scripted_server(refuses_marked) as script:
        status = main(["embed", "--images-from", str(listed), "--out", str(out)], environ(script))

    vectors = np.load(out)
    printed = capsys.readouterr()
    assert 1 == status
    assert ((3, 4), np.dtype(np.float32)) == (vectors.shape, vectors.dtype)
    assert [False, True, False] == np.isnan(vectors).all(axis=1).tolist()
    assert printed.err.startswith("image 1: INVALID_IMAGE: ")
    assert "private" not in printed.err + printed.out


def test_embed_to_json_lines(tmp_path: Path) -> None:
    """A file of rows holds what would have been printed, errors in their places."""
    out = tmp_path / "rows.jsonl"
    with scripted_server(refuses_marked) as script:
        status = main(["embed", "--image", "http://a/1", "http://a/!", "--out", str(out)], environ(script))

    first, second = map(json.loads, out.read_text().splitlines())
    assert 1 == status
    assert (4, "INVALID_IMAGE") == (first["dim"], second["error"]["code"])


def test_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder is its images and those below it, sorted; what is no http URL is a file; lists take the same."""
    drawn = tmp_path / "drawn"
    for folder in ("z", "below", "c"):
        (drawn / folder).mkdir(parents=True)
    names = ["b.PNG", "a.jpg", "z/1.png", "below/c.webp", "c/2.gif", "notes.txt"]
    for name in names:
        (drawn / name).write_bytes(name.encode())
    listed = tmp_path / "list.txt"
    listed.write_text(f"  {drawn}/notes.txt  \r\n\n{drawn}/below\n", "utf-8-sig")
    with scripted_server(answer) as script:
        status = main(["embed", "--image", str(drawn), "HTTP://a/1", "--images-from", str(listed)], environ(script))

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    walked = [f"{drawn}/{name}" for name in ("a.jpg", "b.PNG", "below/c.webp", "c/2.gif", "z/1.png")]
    assert 0 == status
    assert [*walked, "HTTP://a/1", f"{drawn}/notes.txt", f"{drawn}/below/c.webp"] == [row["input"] for row in rows]
    sent = [item for seen in script.seen for item in seen.body["items"]]
    assert ["HTTP://a/1"] == [item["image_url"] for item in sent if "image_url" in item]


def test_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It fails by itself, with its number and without its name on standard error; the others are embedded."""
    there = tmp_path / "there.png"
    there.write_bytes(b"x")
    with scripted_server(answer) as script:
        status = main(["embed", "--image", str(tmp_path / "private.png"), str(there)], environ(script))

    printed = capsys.readouterr()
    assert 1 == status
    assert printed.err.startswith("image 0: FILE_UNREADABLE: ")
    assert "private" not in printed.err
    assert ["error", "embedding"] == [
        "error" if "error" in json.loads(line) else "embedding" for line in printed.out.splitlines()
    ]


def test_line_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 fail for their own line; as a path they are the file of that name."""
    named = tmp_path.joinpath(os.fsdecode(b"caf\xe9.png"))
    named.write_bytes(b"x")
    images, texts, out = tmp_path / "images.txt", tmp_path / "texts.txt", tmp_path / "rows.jsonl"
    images.write_bytes(os.fsencode(named) + b"\n")
    texts.write_bytes(b"caf\xe9\na red circle\n")
    arguments = ["embed", "--images-from", str(images), "--texts-from", str(texts), "--out", str(out)]
    with scripted_server(answer) as script:
        status = main(arguments, environ(script))

    image, wrong, right = map(json.loads, out.read_text().splitlines())
    assert 1 == status
    assert ("caf\ufffd.png", 4) == (Path(image["input"]).name, image["dim"])
    assert ("caf\ufffd", "VALIDATION_ERROR") == (wrong["input"], wrong["error"]["code"])
    assert 4 == right["dim"]


def test_limit_of_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that only fails ends early; what it has written stays."""
    out = tmp_path / "rows.jsonl"
    arguments = ["embed", "--text", *[f"!{number}" for number in range(50)], "--limit-errors", "3", "--out", str(out)]
    with scripted_server(refuses_marked) as script:
        status = main(arguments, environ(script))

    assert 1 == status
    assert 3 == len(out.read_text().splitlines())
    assert "stopped: 3 inputs have failed" == capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        pytest.param(["embed"], "nothing to embed", id="nothing"),
        pytest.param(["embed", "--text", "x", "--out", "vectors.csv"], ".npy, .jsonl or .parquet", id="kind of file"),
        pytest.param(["embed", "--text", "x", "--out", "/nowhere/v.npy"], "/nowhere/v.npy", id="no such folder"),
        pytest.param(["embed", "--text", "x", "--out", "/nowhere/v.parquet"], "/nowhere/v.parquet", id="nor for parts"),
        pytest.param(["embed", "--images-from", "/nowhere/urls"], "/nowhere/urls", id="no such list"),
        pytest.param(["embed", "--images-from", "-", "--texts-from", "-"], "not both", id="standard input twice"),
        pytest.param(["embed", "--text", "x", "--resume"], "--resume needs --out", id="nothing to resume"),
        pytest.param(
            ["embed", "--text", "x", "--resume", "--out", "v.npy"], "--resume needs --out", id="resume without inputs"
        ),
        pytest.param(["search", "--text", "x", "--vectors", "v.csv"], ".npy, .jsonl or .parquet", id="kind of vectors"),
        pytest.param(["search", "--text", "x", "--vectors", "/nowhere/v.npy"], "/nowhere/v.npy", id="no vectors"),
        pytest.param(["search", "--text", "x", "--vectors", "/nowhere/v.jsonl"], "/nowhere/v.jsonl", id="no rows"),
        pytest.param(["search", "--text", "x", "--vectors", "/nowhere/v.parquet"], "/nowhere/v.parquet", id="no file"),
    ],
)
def test_wrong_use(arguments: list[str], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is one line, before any request."""
    with scripted_server(answer) as script:
        status = main(arguments, environ(script))

    assert ([], 2) == (script.seen, status)
    [line] = capsys.readouterr().err.splitlines()
    assert cause in line


def test_folder_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named: an empty result would look like success."""
    with scripted_server(answer) as script:
        assert 2 == main(["embed", "--image", str(tmp_path)], environ(script))

    assert f"{tmp_path}: no image in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no command"),
        pytest.param(["embed", "--text", "x", "--limit-errors", "0"], id="no errors at all"),
        pytest.param(["search", "--text", "x", "--vectors", "v.npy", "--top", "none"], id="no number"),
        pytest.param(["search", "--vectors", "v.npy"], id="no query"),
        pytest.param(["search", "--text", "x", "--image", "y", "--vectors", "v.npy"], id="two queries"),
        pytest.param(["smoke", "--target", "moon"], id="unknown target"),
    ],
)
def test_arguments_that_cannot_be(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The parser says so, with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments, {})

    assert 2 == ended.value.code
    assert "usage: clip-embed" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["embed"], ["search"], ["probe"], ["smoke"]], ids=str)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself, without settings."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"], {})

    assert 0 == ended.value.code
    assert len(capsys.readouterr().out.splitlines()) > 6


def test_as_a_process() -> None:
    """`python -m clip_embedding_client` is that command, its status is the process's, and no traceback is shown."""
    environment = {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run([*COMMAND, "probe"], env=environment, capture_output=True, text=True, check=False)

    assert (2, "CLIP_INFERENCE_BACKEND is not set\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize(("flag", "shown"), [([], False), (["-v"], True)], ids=["silent", "verbose"])
def test_log(flag: list[str], shown: bool) -> None:
    """What is worth a look only sometimes (a retry) is logged with -v."""
    with scripted_server(error_reply("OVERLOADED", 503, retryable=True), answer) as script:
        done = subprocess.run(
            [*COMMAND, "embed", *flag, "--text", "x"],
            env=environ(script, CLIP_RETRY_ATTEMPTS="2", PYTHONPATH=PYTHONPATH),
            capture_output=True,
            text=True,
            check=False,
        )

    assert 0 == done.returncode
    assert shown is ("runpod_pod: OVERLOADED, 1 again in" in done.stderr)


def test_reader_that_has_seen_enough() -> None:
    """A pipe that is closed (head) ends the run, without a word about it."""
    with scripted_server(answer) as script:
        environment = environ(script, PYTHONPATH=PYTHONPATH)
        texts = [str(number) for number in range(2000)]
        with subprocess.Popen(
            [*COMMAND, "embed", "--text", *texts], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            said = process.stderr.read()

    assert (1, b"") == (process.returncode, said)


def test_bar_on_a_terminal() -> None:
    """A run shows how far it is where somebody looks, and nowhere else."""
    with scripted_server(answer) as script:
        environment = environ(script, PYTHONPATH=PYTHONPATH)
        command = [*COMMAND, "embed", "--image", *[f"http://a/{number}" for number in range(30)]]
        terminal, its_end = pty.openpty()
        termios.tcsetwinsize(its_end, (24, 80))
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=its_end, check=True)
        os.close(its_end)
        shown = read_all(terminal)
        silent = subprocess.run(command, env=environment, capture_output=True, check=True)

    assert b"30/30" in shown
    assert b"" == silent.stderr


def read_all(terminal: int) -> bytes:
    """What was written to a terminal that is closed at the other end."""
    shown = b""
    try:
        while piece := os.read(terminal, 65_536):
            shown += piece
    except OSError:
        # That is how Linux says that nobody writes any more.
        pass
    finally:
        os.close(terminal)
    return shown
