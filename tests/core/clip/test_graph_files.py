"""What starts keep of compiled graphs for each other: whoever has read one keeps it as it was."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from core.clip.bake import bake
from core.clip.graph_files import GraphFiles, own_cache, scratch
from core.clip.loading import load_model
from core.clip.openvino_engine import OpenVinoEngine
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.settings import load_settings
from tools.testbed.process import TINY_MODEL


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target: Path = tmp_path_factory.mktemp("graphs") / "model"
    bake(str(TINY_MODEL), target, openvino=True)
    return target


def fingerprint(baked: Path) -> str:
    [graphs] = baked.glob("*-openvino-*")
    return graphs.name.partition("-openvino-")[0]


def test_graph_that_another_start_has_compiled_is_not_written_over(tmp_path: Path) -> None:
    """It came while this one compiled; whoever has it open reads on, and who comes next has the new one."""
    with own_cache(tmp_path) as own:
        assert own is not None
        (own / "images.blob").write_bytes(b"mine")
        (tmp_path / "images.blob").write_bytes(b"theirs")
        theirs = (tmp_path / "images.blob").open("rb")

    with theirs:
        assert b"theirs" == theirs.read()
    assert b"mine" == (tmp_path / "images.blob").read_bytes()
    assert ["images.blob"] == [path.name for path in tmp_path.iterdir()]


def test_scratch_of_a_start_that_was_killed_goes_with_a_later_one(tmp_path: Path) -> None:
    """One that lacks memory to export is killed again and again, and each leaves a model. Of one that runs it stays."""
    for name, age_s in {"unfinished-killed": 7200, "unfinished-running": 60}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "images.bin").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    with scratch(tmp_path) as own:
        during = {path.name for path in tmp_path.iterdir()}

    assert {"unfinished-running", own.name} == during
    assert ["unfinished-running"] == [path.name for path in tmp_path.iterdir()]


def test_baked_model_needs_no_cache(baked: Path, tmp_path: Path) -> None:
    """A volume that is full, or cannot be written, costs the time to compile and not the start."""
    (tmp_path / "file").write_bytes(b"")
    settings = load_settings(
        {
            "ALLOW_INSECURE_AUTH": "1",
            "CLIP_MODEL": str(baked),
            "CLIP_DEVICE": "cpu",
            "CLIP_ENGINE": "openvino",
            "CLIP_CACHE_DIR": str(tmp_path / "file" / "cache"),
        }
    )

    assert fingerprint(baked) == load_model(settings, pixel_rules=PIXEL_RULES_VERSION).fingerprint


def test_cache_without_room_for_a_folder_is_read(tmp_path: Path) -> None:
    """What others have compiled is there all the same. In this one nobody can make a folder, root neither."""
    processes = Path("/proc/self")
    with own_cache(processes) as own, own_cache(tmp_path / "missing") as none:
        found = (own, none)

    assert (processes, None) == found


def test_graphs_that_are_kept_are_used(tmp_path: Path) -> None:
    """And stay what they were: a start that finds them writes nothing."""
    (tmp_path / "images.blob").write_bytes(b"kept")
    before = (tmp_path / "images.blob").stat()
    with own_cache(tmp_path) as own:
        assert own is not None
        assert b"kept" == (own / "images.blob").read_bytes()

    assert (before.st_ino, before.st_mtime_ns) == (
        (tmp_path / "images.blob").stat().st_ino,
        (tmp_path / "images.blob").stat().st_mtime_ns,
    )


def test_start_that_fails_keeps_nothing(tmp_path: Path) -> None:
    """What it was writing may not be whole."""

    def fail() -> None:
        with own_cache(tmp_path) as own:
            assert own is not None
            (own / "images.blob").write_bytes(b"half")
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()

    assert [] == list(tmp_path.iterdir())


def test_second_start_compiles_nothing(baked: Path, tmp_path: Path) -> None:
    """By the files of the first, which are the same afterwards; the vectors are, too."""
    files = GraphFiles.baked(baked, tmp_path / "compiled", fingerprint(baked))
    files.compiled.mkdir()
    batch = np.full((2, 8), 632)
    first = OpenVinoEngine(files, dtype="float32", threads=1).encode_texts(batch)
    kept = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files.compiled.iterdir()}
    second = OpenVinoEngine(files, dtype="float32", threads=1).encode_texts(batch)

    assert 2 == len(kept)
    assert {".blob"} == {Path(name).suffix for name in kept}
    assert kept == {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files.compiled.iterdir()}
    np.testing.assert_array_equal(first, second)
