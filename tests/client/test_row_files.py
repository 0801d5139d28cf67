"""The files of `clip-embed embed`: one content in three forms, written as it comes, and what an interruption leaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clip_embedding_client import ClipClientError, errors
from clip_embedding_client.__main__ import main
from clip_embedding_client.commands.inputs import Input
from clip_embedding_client.commands.interruption import Interrupted, interruptible
from clip_embedding_client.commands.parquet_file import ROWS_PER_PART, ParquetFile
from clip_embedding_client.commands.rows import Row, row_of
from clip_embedding_client.commands.sinks import open_sink
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.command_line import COMMAND, PYTHONPATH, embedding, environ, refuses_marked, row
from tests.client.scripted import Reply, Script, Seen, answer, json_reply, scripted_server, success

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with scripted_server(refuses_marked) as running:
        yield running


def rows_of(path: Path) -> list[Row]:
    """Whatever the file's form; members that are not there are None."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return list(pq.read_table(path).to_pylist())


def inputs_of(path: Path) -> list[str]:
    return [each["input"] for each in rows_of(path)]


def listed(path: Path, texts: list[str]) -> list[str]:
    """The arguments that name these texts."""
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return ["--texts-from", str(path)]


# Text in lines, as people keep it: no line ends within, no lone surrogates, which no file has.
LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    str.strip
)


@settings(max_examples=30)
@given(texts=st.lists(LINES, min_size=1, max_size=12))
def test_forms_agree(texts: list[str], script: Script, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is embedded, JSON lines, Parquet and npy hold the same rows in the same order."""
    folder = tmp_path_factory.mktemp("forms")
    arguments = listed(folder / "texts.txt", texts)
    lines, table, array = (folder / name for name in ("rows.jsonl", "rows.parquet", "vectors.npy"))
    statuses = {main(["embed", *arguments, "--out", str(out)], environ(script)) for out in (lines, table, array)}

    vectors = np.load(array)
    assert {1 if any("!" in text for text in texts) else 0} == statuses
    assert texts == inputs_of(lines)
    assert [without_ids(each) for each in rows_of(lines)] == [without_ids(each) for each in rows_of(table)]
    assert len(texts) == len(vectors)
    for each, vector in zip(rows_of(lines), vectors, strict=True):
        failed = "error" in each
        assert failed is ("!" in each["input"])
        assert failed is bool(np.isnan(vector).all())
        assert failed or each["embedding"] == vector.tolist()


def without_ids(each: Row) -> Row:
    """What two runs have in common."""
    return {name: value for name, value in each.items() if value is not None and name != "request_id"}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "vectors.npy"])
@pytest.mark.parametrize(
    ("changed", "arguments"),
    [
        pytest.param({"CLIP_POD_BASE_URL": ""}, ["--text", "a"], id="a setting is missing"),
        pytest.param({}, ["--image", "empty"], id="a folder is empty"),
    ],
)
def test_run_that_cannot_begin_leaves_what_was_there(
    changed: dict[str, str],
    arguments: list[str],
    name: str,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also the parts of a table whose run was interrupted."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    out = tmp_path / name
    parts = tmp_path / "rows.parquet.parts"
    main(["embed", "--text", "of an earlier run", "--out", str(out)], environ(script))
    parts.mkdir()
    (parts / "part-000000.parquet").write_bytes(b"a part")
    before = out.read_bytes()

    assert 2 == main(["embed", *arguments, "--out", str(out)], {**environ(script), **changed})
    assert before == out.read_bytes()
    assert b"a part" == (parts / "part-000000.parquet").read_bytes()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        pytest.param("rows.jsonl", [], id="lines"),
        pytest.param("rows.jsonl", ["--resume"], id="lines, resume"),
        pytest.param("rows.parquet", [], id="table"),
        pytest.param("rows.parquet", ["--resume"], id="table, resume"),
        pytest.param("vectors.npy", [], id="array"),
    ],
)
def test_first_run_that_cannot_begin_leaves_nothing(name: str, more: list[str], script: Script, tmp_path: Path) -> None:
    """Nor what a killed one has left of a part; why it cannot is said."""
    if name == "rows.parquet":
        (parts := tmp_path / "rows.parquet.parts").mkdir()
        (parts / "unfinished.parquet").write_bytes(b"PAR1")
    given = {**environ(script), "CLIP_POD_BASE_URL": ""}

    assert 2 == main(["embed", "--text", "a", "--out", str(tmp_path / name), *more], given)
    assert [] == list(tmp_path.iterdir())


def test_lines_into_a_pipe(script: Script, tmp_path: Path) -> None:
    """Which has no length and no place: whoever reads it has the rows."""
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    status = main(["embed", "--text", "a", "b", "--out", str(pipe)], environ(script))
    reader.join(TIMEOUT_S)

    assert 0 == status
    assert ["a", "b"] == [json.loads(line)["input"] for line in read[0].splitlines()]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "vectors.npy"])
def test_nothing_but_failures(name: str, script: Script, tmp_path: Path) -> None:
    """A file is made all the same, with a row for each."""
    out = tmp_path / name
    status = main(["embed", "--text", "!", "!!", "--out", str(out)], environ(script))

    assert 1 == status
    assert 2 == (len(np.load(out)) if out.suffix == ".npy" else len(rows_of(out)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "vectors.npy"])
def test_first_ones_fail(name: str, script: Script, tmp_path: Path) -> None:
    """The length of a vector is not known yet when their rows are written."""
    out = tmp_path / name
    main(["embed", "--text", "!", "!!", "x", "--out", str(out)], environ(script))

    if out.suffix == ".npy":
        assert [True, True, False] == np.isnan(np.load(out)).all(axis=1).tolist()
    else:
        assert [True, True, False] == [each.get("embedding") is None for each in rows_of(out)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "vectors.npy"])
def test_empty_list(name: str, script: Script, tmp_path: Path) -> None:
    """A list without lines is a file without rows, and no failure."""
    out = tmp_path / name
    status = main(["embed", *listed(tmp_path / "none.txt", []), "--out", str(out)], environ(script))

    assert 0 == status
    assert 0 == (len(np.load(out)) if out.suffix == ".npy" else len(rows_of(out)))


def test_parquet_of_many(tmp_path: Path) -> None:
    """Parts of some thousand rows become row groups of one file, in order, and nothing else is left."""
    out = tmp_path / "rows.parquet"
    sink = open_sink(out, resume=False)
    for number in range(2 * ROWS_PER_PART + 1):
        sink.write(row(number))
    sink.finish()
    sink.close()

    table = pq.ParquetFile(out)
    assert [ROWS_PER_PART, ROWS_PER_PART, 1] == [
        table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)
    ]
    assert list(range(2 * ROWS_PER_PART + 1)) == table.read(["index"]).column("index").to_pylist()
    assert pa.list_(pa.float32()) == table.schema_arrow.field("embedding").type
    assert [out] == list(tmp_path.iterdir())


def test_array_of_many(tmp_path: Path) -> None:
    """Its header grows with it, and is right up to a thousand rows ago whenever the process is killed."""
    out = tmp_path / "vectors.npy"
    sink = open_sink(out, resume=False)
    for number in range(3000):
        sink.write(row(number))
    killed = np.load(out).copy()
    sink.close()

    whole = np.load(out)
    assert (2048, 3000) == (len(killed), len(whole))
    assert list(range(3000)) == whole[:, 0].tolist()
    assert (np.dtype("<f4"), True) == (whole.dtype, whole.flags.c_contiguous)


def test_array_of_vectors_that_differ(tmp_path: Path) -> None:
    """Vectors of two lengths, which two models give, are no array."""
    sink = open_sink(tmp_path / "vectors.npy", resume=False)
    sink.write(row(0))
    with pytest.raises(errors.FingerprintMismatch, match="4 and of 5"):
        sink.write(row_of(Input("text", "x", 1), embedding(1, dim=5)))
    sink.close()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_run_goes_on(name: str, end: signal.Signals, tmp_path: Path) -> None:
    """What is written can be read; --resume embeds what is missing, once, and the file is that of a whole run."""
    out = tmp_path / name
    texts = [f"text {number}" for number in range(130)]
    with scripted_server(answer) as script:
        given = environ(script, CLIP_TEXT_BATCH_SIZE="4", PYTHONPATH=PYTHONPATH)
        command = [*COMMAND, "embed", "--texts-from", "-", "--out", str(out)]
        with subprocess.Popen(command, env=given, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            # It waits for the last line, and by then has to have written what is beyond its window.
            process.stdin.write("".join(f"{text}\n" for text in texts[:120]))
            process.stdin.flush()
            wait_for(lambda: len(script.seen) >= 30, process)
            process.send_signal(end)
            status, said = process.wait(TIMEOUT_S), process.stderr.read()
        left = inputs_of(out if out.suffix == ".jsonl" else tmp_path / "rows.parquet.parts")
        done = len(script.seen)
        resumed = main(["embed", *listed(tmp_path / "all.txt", texts), "--out", str(out), "--resume"], given)
        sent = [item["text"] for seen in script.seen[done:] for item in seen.body["items"]]

    assert (128 + end, 0) == (status, resumed)
    assert [f"interrupted: {len(left)} rows are in"] == [
        line.partition(f" {tmp_path}")[0] for line in said.splitlines()
    ]
    assert "--resume" in said
    assert 40 <= len(left) < 130
    assert texts[: len(left)] == left
    assert sorted(texts[len(left) :]) == sorted(sent)
    assert texts == inputs_of(out)
    assert list(range(130)) == [each["index"] for each in rows_of(out)]
    assert {out, tmp_path / "all.txt"} == set(tmp_path.iterdir())


def wait_for(happened: Any, process: "subprocess.Popen[str]") -> None:  # noqa: ANN401
    until_s = time.monotonic() + TIMEOUT_S
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_interrupted_array(tmp_path: Path) -> None:
    """It has as many rows as are said, and cannot be gone on with."""
    out = tmp_path / "vectors.npy"
    with scripted_server(answer) as script:
        given = environ(script, CLIP_TEXT_BATCH_SIZE="4", PYTHONPATH=PYTHONPATH)
        command = [*COMMAND, "embed", "--texts-from", "-", "--out", str(out)]
        with subprocess.Popen(command, env=given, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write("x\n" * 120)
            process.stdin.flush()
            wait_for(lambda: len(script.seen) >= 30, process)
            process.terminate()
            status, said = process.wait(TIMEOUT_S), process.stderr.read()

    assert 143 == status
    assert f"interrupted: {len(np.load(out))} rows are in {out}\n" == said


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "vectors.npy"])
def test_interrupted_while_the_service_hangs(name: str, tmp_path: Path) -> None:
    """The rows are safe as soon as the signal is there: who sent it may not wait for what is on its way."""
    out, goes_on = tmp_path / name, threading.Event()

    def hanging(seen: Seen) -> Reply:
        if seen.body["items"][0]["text"] == "last":
            goes_on.wait()
        return answer(seen)

    with scripted_server(hanging) as script:
        given = environ(
            script,
            CLIP_TEXT_BATCH_SIZE="4",
            CLIP_POD_TIMEOUT_S="600",
            CLIP_TOTAL_TIMEOUT_S="600",
            PYTHONPATH=PYTHONPATH,
        )
        command = [*COMMAND, "embed", "--texts-from", "-", "--out", str(out)]
        with subprocess.Popen(command, env=given, stdin=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdin is not None
                process.stdin.write("x\n" * 120 + "last\n" * 4)
                process.stdin.flush()
                wait_for(lambda: len(script.seen) >= 31, process)
                process.terminate()
                wait_for(lambda: rows_that_can_be_read(out) >= 40, process)
            finally:
                process.kill()
                goes_on.set()

    assert -signal.SIGKILL == process.returncode
    assert 40 <= rows_that_can_be_read(out) <= 120


def rows_that_can_be_read(out: Path) -> int:
    if out.suffix == ".npy":
        return len(np.load(out))
    parts = out.with_name("rows.parquet.parts")
    return len(rows_of(out if out.suffix == ".jsonl" else parts)) if out.exists() or any(parts.glob("part-*")) else 0


def test_lines_of_a_killed_run(script: Script, tmp_path: Path) -> None:
    """Half a line is cut off, and its input embedded again."""
    out = tmp_path / "rows.jsonl"
    arguments = ["embed", "--text", "a", "b", "c", "--out", str(out)]
    main(arguments, environ(script))
    whole = out.read_bytes()
    out.write_bytes(whole[:-20])
    status = main([*arguments, "--resume"], environ(script))

    assert 0 == status
    assert ["a", "b", "c"] == inputs_of(out)
    assert whole.splitlines()[:2] == out.read_bytes().splitlines()[:2]


def test_parts_of_a_killed_run(tmp_path: Path) -> None:
    """Every part that was made is there; the rows since are not, and the next run is told of no others."""
    out = tmp_path / "rows.parquet"
    killed = open_sink(out, resume=False)
    for number in range(ROWS_PER_PART + 5):
        killed.write(row(number))
    out.with_name("rows.parquet.parts").joinpath("unfinished.parquet").write_bytes(b"PAR1")
    sink = open_sink(out, resume=True)
    there = [each["index"] for each in sink.rows_there()]
    for number in range(ROWS_PER_PART, ROWS_PER_PART + 3):
        sink.write(row(number))
    sink.finish()

    assert list(range(ROWS_PER_PART)) == there
    assert list(range(ROWS_PER_PART + 3)) == [each["index"] for each in rows_of(out)]
    assert [out] == list(tmp_path.iterdir())


def test_process_that_is_killed_between_the_file_and_its_parts(tmp_path: Path) -> None:
    """A whole file counts, and parts that it was made of do not count again."""
    out = tmp_path / "rows.parquet"
    for name in ("rows.parquet", "again.parquet"):
        sink = open_sink(tmp_path / name, resume=False)
        sink.write(row(0))
        sink.finish()
    parts = tmp_path / "rows.parquet.parts"
    parts.mkdir()
    (tmp_path / "again.parquet").rename(parts / "part-000001.parquet")
    sink = open_sink(out, resume=True)
    there = list(sink.rows_there())
    sink.write(row(1))
    sink.finish()

    assert 1 == len(there)
    assert [0, 1] == [each["index"] for each in rows_of(out)]
    assert [out] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_resume_of_a_whole_run(name: str, script: Script, tmp_path: Path) -> None:
    """Nothing is sent again; a longer list goes on where the shorter one ended."""
    out = tmp_path / name
    main(["embed", "--text", "a", "!", "--out", str(out)], environ(script))
    asked = len(script.seen)
    same = main(["embed", "--text", "a", "!", "--out", str(out), "--resume"], environ(script))
    not_asked = len(script.seen)
    longer = main(["embed", "--text", "a", "!", "c", "--out", str(out), "--resume"], environ(script))

    assert ((0, 0), asked) == ((same, longer), not_asked)
    assert ["a", "!", "c"] == inputs_of(out)
    assert [out] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_resume_without_a_file(name: str, script: Script, tmp_path: Path) -> None:
    """It begins: whoever restarts a job always says --resume."""
    out = tmp_path / name

    assert 0 == main(["embed", "--text", "a", "--out", str(out), "--resume"], environ(script))
    assert ["a"] == inputs_of(out)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(["--text", "a", "x"], id="another text"),
        pytest.param(["--text", "a"], id="fewer"),
        pytest.param(["--image", "http://a/", "--text", "a", "b"], id="an image before them"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_resume_with_other_inputs(
    name: str, others: list[str], script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything is sent, and the file stays as it is."""
    out = tmp_path / name
    main(["embed", "--text", "a", "b", "--out", str(out)], environ(script))
    before, asked = out.read_bytes(), len(script.seen)
    status = main(["embed", *others, "--out", str(out), "--resume"], environ(script))

    assert (2, asked) == (status, len(script.seen))
    assert "is of another input" in capsys.readouterr().err
    assert before == out.read_bytes()
    assert [out] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        pytest.param("rows.jsonl", b"{}\nnot JSON\n", "is of another input", id="an empty row"),
        pytest.param("rows.jsonl", b"not JSON\n", "line 1 is not JSON", id="no JSON"),
        pytest.param("rows.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON", id="nothing but brackets"),
        pytest.param("rows.jsonl", b"7\n", "is no row", id="a number"),
        pytest.param("rows.parquet", b"PAR1", "is no whole Parquet file", id="no Parquet"),
    ],
)
def test_resume_of_another_file(
    name: str, content: bytes, cause: str, script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What this command has not written is left alone."""
    out = tmp_path / name
    out.write_bytes(content)

    assert 2 == main(["embed", "--text", "a", "--out", str(out), "--resume"], environ(script))
    assert cause in capsys.readouterr().err
    assert content == out.read_bytes()


def test_new_run_replaces_the_old_one(script: Script, tmp_path: Path) -> None:
    """Without --resume a file, and what an interrupted run has left, is that of the new run only."""
    out = tmp_path / "rows.parquet"
    main(["embed", "--text", "a", "b", "--out", str(out)], environ(script))
    interrupted = open_sink(tmp_path / "rows.parquet", resume=False)
    interrupted.write(row(0))
    interrupted.close()
    main(["embed", "--text", "c", "--out", str(out)], environ(script))

    assert ["c"] == inputs_of(out)
    assert [out] == list(tmp_path.iterdir())


def changing(seen: Seen) -> Reply:
    """A service that is rolled out while it answers."""
    is_first = seen.body["items"][0]["text"] == "text 1"
    return json_reply(success(seen.body, fingerprint="a" * 16 if is_first else "b" * 16))


def test_model_that_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file has vectors of one model: the first one of another ends the run, and a resumed one too."""
    out = tmp_path / "rows.jsonl"
    arguments = ["embed", "--text", "text 1", "text 2", "text 3", "--out", str(out)]
    with scripted_server(changing) as script:
        one_each = environ(script, CLIP_TEXT_BATCH_SIZE="1")
        statuses = [main(arguments, one_each), main([*arguments, "--resume"], one_each)]
        said = capsys.readouterr().err.splitlines()
        left = inputs_of(out)
        allowed = main([*arguments, "--resume"], {**one_each, "CLIP_ALLOW_FINGERPRINT_MISMATCH": "1"})

    assert [1, 1] == statuses
    assert ["FINGERPRINT_MISMATCH: the rows so far have fingerprint aaaaaaaa"] * 2 == [line[:63] for line in said]
    assert ["text 1"] == left
    assert (0, 3) == (allowed, len(inputs_of(out)))


def test_signal_within_a_row() -> None:
    """It is taken when the row is whole, and at once between two; afterwards the signals are as before."""
    before = signal.getsignal(signal.SIGTERM)
    done = []
    with interruptible() as signals:

        def write() -> None:
            with signals.held():
                signal.raise_signal(signal.SIGTERM)
                done.append("whole")

        with pytest.raises(Interrupted) as caught:
            write()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)

    assert (["whole"], 143) == (done, caught.value.status)
    assert before == signal.getsignal(signal.SIGTERM)


def test_another_thread_has_no_signals(script: Script, tmp_path: Path) -> None:
    """The command can be called there too."""
    statuses = []
    arguments = ["embed", "--text", "a", "--out", str(tmp_path / "rows.jsonl")]
    thread = threading.Thread(target=lambda: statuses.append(main(arguments, environ(script))))
    thread.start()
    thread.join()

    assert [0] == statuses


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch, script: Script, tmp_path: Path, capsys: Any) -> None:  # noqa: ANN401
    """What to install is said, before anything is sent, and nothing is left behind."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    asked = len(script.seen)
    statuses = [
        main(["embed", "--text", "a", "--out", str(tmp_path / "rows.parquet")], environ(script)),
        main(["search", "--text", "a", "--vectors", str(tmp_path / "rows.parquet")], environ(script)),
    ]

    assert ([2, 2], asked) == (statuses, len(script.seen))
    assert ["Parquet needs pyarrow: pip install 'clip-embedding-client[parquet]'"] * 2 == (
        capsys.readouterr().err.splitlines()
    )
    assert [] == list(tmp_path.iterdir())


def test_failed_row_is_an_error() -> None:
    """A row says what failed and whether it may do better later; its vector is absent."""
    error: ClipClientError = errors.Overloaded("busy", request_id="mine")

    assert {
        "kind": "image",
        "index": 3,
        "input": "http://a/?token=x",
        "request_id": "mine",
        "error": {"code": "OVERLOADED", "message": "busy", "retryable": True},
    } == row_of(Input("image", "http://a/?token=x", 3), error)


def test_parquet_file_is_made_of_whole_parts_only(tmp_path: Path) -> None:
    """Closed without being finished, all rows so far are there."""
    sink = ParquetFile(tmp_path / "rows.parquet", resume=False)
    sink.write(row(0))
    sink.close()
    sink.close()

    assert ["text 0"] == inputs_of(tmp_path / "rows.parquet.parts")
