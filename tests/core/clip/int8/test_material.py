"""A folder of one's own: what is taken of it, that nothing is on both sides, and what is too little."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from core.clip.int8.material import LEAST, drawn, read_folder
from core.errors import StartError
from tools.testbed.pictures import encoded, natural


def folder_of(tmp_path: Path, pictures: int, more: Mapping[str, bytes] | None = None) -> Path:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    for number in range(pictures):
        (folder / "deep" / f"{number:03}.jpg").write_bytes(encoded(natural(64, 48, number), "JPEG"))
    for name, data in (more or {}).items():
        (folder / name).write_bytes(data)
    return folder


def test_every_other_picture_is_for_judging(tmp_path: Path) -> None:
    """Half for each purpose, and none for both."""
    halves = read_folder(folder_of(tmp_path, 2 * LEAST), 32)

    sides = [{picture.tobytes() for picture in side.pictures} for side in (halves.calibration, halves.judgement)]
    assert [LEAST, LEAST] == [len(side) for side in sides]
    assert not sides[0] & sides[1]


def test_same_folder_gives_the_same_halves(tmp_path: Path) -> None:
    """Whatever order the disk lists it in."""
    folder = folder_of(tmp_path, 2 * LEAST)

    first, second = read_folder(folder, 32), read_folder(folder, 32)

    assert np.array_equal(first.calibration.pictures, second.calibration.pictures)


def test_copy_of_a_picture_counts_once(tmp_path: Path) -> None:
    """Else int8 would be judged on what it was calibrated on."""
    folder = folder_of(tmp_path, 2 * LEAST - 1)
    (folder / "copy.jpg").write_bytes((folder / "deep" / "000.jpg").read_bytes())

    with pytest.raises(StartError, match=f"has {2 * LEAST - 1} different images: {2 * LEAST} are needed"):
        read_folder(folder, 32)


def test_lines_of_text_files_are_texts(tmp_path: Path) -> None:
    """Stripped, without what is empty or comes again; what is neither text nor image is passed over."""
    lines = [f"scene {number}" for number in range(40)]
    more = {"captions.txt": "\n\n  ".join([*lines, lines[0]]).encode(), "notes.pdf": b"%PDF-1.7"}

    halves = read_folder(folder_of(tmp_path, 2 * LEAST, more), 32)

    assert sorted(lines) == sorted([*halves.calibration.texts, *halves.judgement.texts])
    assert "its texts" in halves.source


def test_without_texts_made_up_ones_are_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the log and in the report; all are different."""
    with caplog.at_level(logging.WARNING):
        halves = read_folder(folder_of(tmp_path, 2 * LEAST), 32)

    texts = [*halves.calibration.texts, *halves.judgement.texts]
    assert len(texts) == len(set(texts)) > 2000
    assert "made-up texts" in halves.source
    assert "texts are made up" in caplog.text


def test_drawn_pictures_are_said_to_be_no_proof(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody should take them for photographs."""
    with caplog.at_level(logging.WARNING):
        halves = drawn(32)

    assert (128, 3, 32, 32) == halves.judgement.pictures.shape
    assert "give a folder of your own" in caplog.text


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """One line, before anything is computed."""
    with pytest.raises(StartError, match="nowhere is not a folder"):
        read_folder(tmp_path / "nowhere", 32)
