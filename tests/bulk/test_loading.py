"""The vectors of a run in a store: what docs/bulk.md says is done to real ones, and they find what is asked for.

Twelve drawings, of each colour and form, are embedded by `python -m bulk`; then the page's blocks are run.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from clip_embedding_client import ClientSettings, ClipClient
from pyarrow import parquet

from models import shapes
from tests.bulk.commands import Head, head
from tools.docs_check.blocks import Block, blocks_of
from tools.testbed.postgres import is_installed, postgres_server
from tools.testbed.process import ROOT

Query = npt.NDArray[np.float32]
Find = Callable[[Query, int], list[object]]

MODEL = str(ROOT / "models" / "tiny-shapes")
TEXTS = [shapes.caption(shapes.single(*kind)).text for kind in shapes.KINDS]
LOCAL = {"CLIP_INFERENCE_BACKEND": "local", "CLIP_MODEL": MODEL}
# Ray, a model and image processes start, on a machine that does other things.
RUN_TIMEOUT_S = 240.0

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Loaded:
    """A folder with an `out` as on the page, and the id of the drawing that each text is about."""

    folder: Path
    ids: Mapping[str, object]


def python_blocks() -> list[Block]:
    page = (ROOT / "docs" / "bulk.md").read_text("utf-8")
    return [block for block in blocks_of(page, "docs/bulk.md") if block.language == "python"]


def block_with(text: str) -> Block:
    [block] = [block for block in python_blocks() if text in block.text]
    return block


def run(block: Block) -> dict[str, Any]:
    """What the block has defined, run as a script of its own."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block.text, block.place, "exec"), names)  # noqa: S102 - of this repository
    return names


def bulk(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "CLIP_MODEL": MODEL, "CLIP_DEVICE": "cpu", **settings}
    command = [sys.executable, "-m", "bulk", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environ, check=False, capture_output=True, text=True, timeout=RUN_TIMEOUT_S
    )


def embed(ray: Head, folder: Path, *options: str) -> None:
    done = bulk("embed", "--output", str(folder / "out"), *options, **ray.settings)
    assert 0 == done.returncode, done.stderr


def drawings(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{colour}-{form}.png" for colour, form in shapes.KINDS]
    for kind, path in zip(shapes.KINDS, paths, strict=True):
        shapes.draw(shapes.single(*kind)).save(path)
    return paths


def files_in_float16(ray: Head, folder: Path) -> Loaded:
    """A folder of images: ids are names."""
    paths = drawings(folder / "images")
    embed(ray, folder, "--input", str(folder / "images"), "--dtype", "float16", "--format", "lance")
    return Loaded(folder, dict(zip(TEXTS, [path.name for path in paths], strict=True)))


def bytes_in_float32(ray: Head, folder: Path) -> Loaded:
    """A table with the images in it: ids are numbers."""
    ids = [1000 + 7 * number for number in range(len(TEXTS))]
    contents = [path.read_bytes() for path in drawings(folder / "images")]
    parquet.write_table(pa.table({"number": ids, "jpeg": contents}), folder / "table.parquet")
    columns = ("--id-column", "number", "--bytes-column", "jpeg")
    embed(ray, folder, "--input", str(folder / "table.parquet"), *columns, "--format", "lance")
    return Loaded(folder, dict(zip(TEXTS, ids, strict=True)))


@pytest.fixture(scope="module")
def ray() -> Iterator[Head]:
    with head({}) as there:
        yield there


@pytest.fixture(
    scope="module",
    params=[pytest.param(files_in_float16, id="float16"), pytest.param(bytes_in_float32, id="float32")],
)
def loaded(request: pytest.FixtureRequest, ray: Head, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    prepare: Callable[[Head, Path], Loaded] = request.param
    return prepare(ray, tmp_path_factory.mktemp("bulk"))


@pytest.fixture(scope="module")
def queries() -> dict[str, Query]:
    """Of each text, by the client's own core."""
    with ClipClient(ClientSettings.from_environ(LOCAL)) as client:
        return {text: client.embed_text(text).vector for text in TEXTS}


@pytest.fixture
def page(loaded: Loaded, queries: dict[str, Query], monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Where a reader is who has come so far."""
    monkeypatch.chdir(loaded.folder)
    np.save("query.npy", queries["a red circle"])
    return loaded


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not is_installed():
        pytest.skip("there is no PostgreSQL: the extra vector-stores brings one")
    with postgres_server() as url:
        monkeypatch.setenv("DATABASE_URL", url)
        yield


def first_found(find: Find, queries: Mapping[str, Query]) -> dict[str, object]:
    return {text: find(query, 1)[0] for text, query in queries.items()}


def test_query_is_the_text_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: dict[str, Query]
) -> None:
    """It is embedded without a service, by the variables that the page sets."""
    monkeypatch.chdir(tmp_path)
    for name, value in LOCAL.items():
        monkeypatch.setenv(name, value)
    run(block_with("embed_text"))

    assert queries["a red circle"].tobytes() == np.load(tmp_path / "query.npy").tobytes()


def test_lancedb_finds_each_drawing_by_its_text(
    page: Loaded, queries: dict[str, Query], capfd: pytest.CaptureFixture[str]
) -> None:
    """From the parts, as the page loads them."""
    pytest.importorskip("lancedb")
    names = run(block_with("import lancedb"))

    assert page.ids == first_found(names["find"], queries)
    assert repr(page.ids["a red circle"]) in capfd.readouterr().out


def test_dataset_of_a_run_is_a_table_of_lancedb(page: Loaded, queries: dict[str, Query]) -> None:
    """What `--format lance` has written needs no loading."""
    lancedb = pytest.importorskip("lancedb")
    table = lancedb.connect("out").open_table("vectors")
    nearest = {text: table.search(query).limit(1).to_list()[0]["id"] for text, query in queries.items()}

    assert page.ids == nearest


def test_output_that_lance_cannot_write_is_refused_first(tmp_path: Path) -> None:
    """Before there is a Ray, a model, neither of which is here, or a plan: one line, and nothing to throw away."""
    drawings(tmp_path / "images")
    done = bulk(
        *("embed", "--input", str(tmp_path / "images"), "--output", "memory://out", "--format", "lance"),
        CLIP_MODEL=str(tmp_path / "no-model"),
        RAY_ADDRESS="127.0.0.1:1",
    )

    assert 1 == done.returncode
    assert re.fullmatch(r"--format lance: \S+ must be on this machine.*\n", done.stderr)


@pytest.mark.usefixtures("postgres")
def test_pgvector_finds_each_drawing_by_its_text(
    page: Loaded, queries: dict[str, Query], capfd: pytest.CaptureFixture[str]
) -> None:
    """In a real PostgreSQL; the block can be run again."""
    pytest.importorskip("psycopg")
    run(block_with("import psycopg"))
    names = run(block_with("import psycopg"))

    assert page.ids == first_found(names["find"], queries)
    assert repr(page.ids["a red circle"]) in capfd.readouterr().out


def test_qdrant_finds_each_drawing_by_its_text(
    page: Loaded, queries: dict[str, Query], capfd: pytest.CaptureFixture[str]
) -> None:
    """In the client's own engine, which is not the server's; the block closes it, and here it is opened again."""
    qdrant_client = pytest.importorskip("qdrant_client")
    run(block_with("import QdrantClient"))
    names = run(block_with("import QdrantClient"))
    names["client"] = qdrant_client.QdrantClient(path="qdrant")

    assert page.ids == first_found(names["find"], queries)
    assert repr(page.ids["a red circle"]) in capfd.readouterr().out
    names["client"].close()
