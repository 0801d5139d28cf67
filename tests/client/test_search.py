"""`clip-embed search`: the best rows of a file, by cosine, whatever else lies in it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clip_embedding_client.__main__ import main
from clip_embedding_client.commands.search import best
from clip_embedding_client.commands.sinks import open_sink
from clip_embedding_client.commands.stored import Block, Place, read_blocks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.client.command_line import environ, row
from tests.client.scripted import FINGERPRINT, Script, answer, scripted_server, vector_of

TEXTS = ["red", "green", "blue", "!", "red and more"]


def embedded(script: Script, out: Path) -> None:
    main(["embed", "--text", *TEXTS, "--out", str(out)], environ(script))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "vectors.npy"])
def test_finds_the_same_in_every_form(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Best first, with the score, the row's number and, where the file has it, the input."""
    vectors = tmp_path / name
    with scripted_server(answer) as script:
        embedded(script, vectors)
        status = main(["search", "--text", "green", "--vectors", str(vectors), "--top", "2", "--json"], environ(script))

    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert 0 == status
    assert (1, pytest.approx(1.0)) == (first["row"], first["score"])
    assert (None, None) == (first["kind"], first["input"]) if name == "vectors.npy" else ("text", "green")
    assert second["score"] < first["score"]


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: an input that is not plain text does a terminal no harm, and a long one is cut."""
    vectors = tmp_path / "rows.jsonl"
    with scripted_server(answer) as script:
        main(["embed", "--text", "\x1b[2J", "x" * 4000, "--out", str(vectors)], environ(script))
        main(["search", "--text", "\x1b[2J", "--vectors", str(vectors)], environ(script))

    heading, first, second = capsys.readouterr().out.splitlines()
    assert ["SCORE", "ROW", "INPUT"] == heading.split()
    assert ["1.0000", "0", "\\x1b[2J"] == first.split()
    assert len(second) < 250


def test_image_as_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL or a file, as embed takes them."""
    vectors = tmp_path / "rows.jsonl"
    file = tmp_path / "query.png"
    file.write_bytes(b"x")
    with scripted_server(answer) as script:
        embedded(script, vectors)
        main(["search", "--image", "http://a/red", "--vectors", str(vectors), "--json"], environ(script))
        main(["search", "--image", str(file), "--vectors", str(vectors), "--json"], environ(script))

    assert 2 * len(TEXTS) == len(capsys.readouterr().out.splitlines())
    assert ["http://a/red", None] == [seen.body.get("image_url") for seen in script.seen[-2:]]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_vectors_of_another_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused, with both fingerprints, unless mixing is allowed."""
    vectors = tmp_path / name
    other = {"kind": "text", "input": "x", "fingerprint": "b" * 16, "embedding": vector_of("x")}
    if name == "rows.jsonl":
        vectors.write_text(json.dumps(other) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([other]), vectors)
    arguments = ["search", "--text", "x", "--vectors", str(vectors)]
    with scripted_server(answer) as script:
        status = main(arguments, environ(script))
        allowed = main(arguments, environ(script, CLIP_ALLOW_FINGERPRINT_MISMATCH="1"))

    said = capsys.readouterr().err
    assert (1, 0) == (status, allowed)
    assert said.startswith("FINGERPRINT_MISMATCH: ")
    assert FINGERPRINT in said
    assert "b" * 16 in said


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        pytest.param("v.npy", b"not an array", "is no array", id="no array"),
        pytest.param("v.npy", b"", "is no array", id="no bytes"),
        pytest.param("v.jsonl", b"", "has no rows", id="no rows"),
        pytest.param("v.jsonl", b"not JSON\n", "line 1 is not JSON", id="no JSON"),
        pytest.param("v.jsonl", b'{"embedding": [1, 0]}\n', "have 2 numbers, the query's 4", id="another length"),
        pytest.param("v.jsonl", b'{"embedding": [1]}\n{"embedding": [1, 0]}\n', "not vectors of one", id="two lengths"),
        pytest.param("v.jsonl", b'{"embedding": ["a"]}\n', "not vectors of one", id="words"),
        pytest.param("v.jsonl", b'{"embedding": 7}\n', "not vectors of one", id="a number"),
        pytest.param("v.parquet", b"PAR1", "no whole Parquet file", id="no Parquet"),
    ],
)
def test_file_that_cannot_be_searched(
    name: str, content: bytes, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one line and status 2."""
    vectors = tmp_path / name
    vectors.write_bytes(content)
    with scripted_server(answer) as script:
        status = main(["search", "--text", "x", "--vectors", str(vectors)], environ(script))

    [line] = capsys.readouterr().err.splitlines()
    assert 2 == status
    assert cause in line


@pytest.mark.parametrize(
    ("array", "cause"),
    [
        pytest.param(np.zeros(4, np.float32), "array of vectors", id="one vector"),
        pytest.param(np.zeros((2, 4), np.int64), "array of vectors", id="whole numbers"),
        pytest.param(np.zeros((0, 4), np.float32), "has no rows", id="none"),
    ],
)
def test_array_that_is_no_vectors(
    array: "np.typing.NDArray[np.float32]", cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is guessed."""
    np.save(tmp_path / "v.npy", array)
    with scripted_server(answer) as script:
        status = main(["search", "--text", "x", "--vectors", str(tmp_path / "v.npy")], environ(script))

    assert 2 == status
    assert cause in capsys.readouterr().err


def test_table_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parquet without the columns of rows says which one it lacks."""
    pq.write_table(pa.table({"kind": ["text"], "input": ["x"], "fingerprint": ["a"]}), tmp_path / "v.parquet")
    with scripted_server(answer) as script:
        assert 2 == main(["search", "--text", "x", "--vectors", str(tmp_path / "v.parquet")], environ(script))

    assert "has no column embedding" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_blocks_are_the_rows(name: str, tmp_path: Path) -> None:
    """A failed row keeps its place, without a vector; an interrupted run's parts are found by the file's name."""
    vectors = tmp_path / name
    sink = open_sink(vectors, resume=False)
    for number in range(4097):
        failed = {"kind": "text", "index": number, "input": "x", "error": {"code": "C", "message": "m"}}
        sink.write(failed if number == 1 else row(number))
    sink.close()

    first, second = read_blocks(vectors)
    assert ((4096, 4), (1, 4)) == (first.vectors.shape, second.vectors.shape)
    assert [0, 2] == [int(number) for number in first.vectors[:3, 0] if np.isfinite(number)]
    assert [Place("text", "text 0"), Place("text", "x")] == list(first.places[:2])
    assert [Place("text", "text 4096")] == list(second.places)
    assert {"a" * 16} == first.fingerprints


VECTORS = arrays.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(3)), elements=st.sampled_from([-1, 0, 1, 2]))


@given(vectors=VECTORS, holes=st.sets(st.integers(0, 11)), size=st.integers(1, 5), top=st.integers(1, 6))
def test_best_is_what_sorting_all_would_give(
    vectors: "np.typing.NDArray[np.float32]", holes: set[int], size: int, top: int
) -> None:
    """However the rows are cut into blocks; NaN and zero rows are never found."""
    query = np.asarray([1, 2, -1], np.float32)
    vectors[[hole for hole in holes if hole < len(vectors)]] = np.nan
    blocks = [Block(vectors[at : at + size], (), frozenset()) for at in range(0, len(vectors), size)]
    hits = best(blocks, query, top)

    lengths = np.linalg.norm(vectors, axis=1)
    scores = {
        row: float(vector @ query / lengths[row] / np.linalg.norm(query))
        for row, vector in enumerate(vectors)
        if lengths[row] > 0
    }
    found = [hit.score for hit in hits]
    assert pytest.approx(sorted(scores.values(), reverse=True)[:top], abs=1e-5) == found
    assert sorted(found, reverse=True) == found
    assert pytest.approx([scores[hit.row] for hit in hits], abs=1e-5) == found
    assert len(hits) == len({hit.row for hit in hits})


def test_of_equals_the_earlier_wins() -> None:
    """The same query gives the same rows each time, however many are equal."""
    one = np.asarray([[1, 2, 3]], np.float32)
    # Many: few are sorted in another way, which keeps their order by chance.
    vectors = np.repeat(one, 1000, axis=0)
    vectors[::2] = -1
    blocks = [Block(vectors, (), frozenset())] * 2

    assert list(range(1, 2000, 2))[:600] == [hit.row for hit in best(blocks, one[0], 600)]
