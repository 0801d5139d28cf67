"""EXIF's orientation: found in any order of bytes, and upright where it cannot be read."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.images.decoding.geometry import Turn
from core.images.decoding.orientation import turn_of

SIX = Turn(flips_y=True, transposes=True)


def exif(byte_order: str, *entries: tuple[int, int, int, int]) -> bytes:
    """An EXIF block of entries (tag, type, count, value)."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[byte_order] + struct.pack(f"{byte_order}IH", 8, len(entries))
    return head + b"".join(struct.pack(f"{byte_order}HHIHxx", *entry) for entry in entries)


@pytest.mark.parametrize(
    ("block", "turn"),
    [
        pytest.param(exif("<", (0x0112, 3, 1, 6)), SIX, id="little-endian"),
        pytest.param(exif(">", (0x0112, 3, 1, 6)), SIX, id="big-endian"),
        pytest.param(b"Exif\0\0" + exif(">", (0x0112, 3, 1, 6)), SIX, id="with its prefix"),
        pytest.param(exif("<", (0x0100, 3, 1, 8), (0x0112, 3, 1, 6)), SIX, id="behind another tag"),
        pytest.param(exif("<", (0x010F, 2, 2**31, 0), (0x0112, 3, 1, 6)), SIX, id="behind a tag of two gigabytes"),
        pytest.param(exif("<", (0x0112, 3, 1, 1)), Turn(), id="upright"),
        pytest.param(exif("<", (0x0112, 3, 1, 9)), Turn(), id="a value that means nothing"),
        pytest.param(exif("<", (0x0112, 2, 1, 6)), Turn(), id="a text"),
        pytest.param(exif("<", (0x0112, 3, 1, 6))[:-6], Turn(), id="cut off"),
        pytest.param(b"Exif\0\0", Turn(), id="empty"),
        pytest.param(b"", Turn(), id="none"),
    ],
)
def test_turn(block: bytes, turn: Turn) -> None:
    """The orientation is that of the first directory, and what cannot be read turns nothing."""
    assert turn == turn_of(block)


@given(st.binary(max_size=60).flatmap(lambda rest: st.sampled_from([rest, b"II*\0" + rest, b"MM\0*" + rest])))
def test_any_block_gives_a_turn(block: bytes) -> None:
    """For any bytes a turn, never an error."""
    assert isinstance(turn_of(block), Turn)
