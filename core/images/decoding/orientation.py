"""EXIF's orientation, read without the rest of EXIF: a file may claim any number of entries of any size."""

import struct

from core.images.decoding.geometry import Turn

_UPRIGHT = Turn()

# https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf, tag 274: the values of Orientation that change something.
_TURNS = {
    2: Turn(flips_x=True),
    3: Turn(flips_x=True, flips_y=True),
    4: Turn(flips_y=True),
    5: Turn(transposes=True),
    6: Turn(flips_y=True, transposes=True),
    7: Turn(flips_x=True, flips_y=True, transposes=True),
    8: Turn(flips_x=True, transposes=True),
}

EXIF_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION_TAG = 0x0112
_SHORT = 3
_ENTRY_BYTES = 12
# A camera writes some dozens; beyond that nobody looks for the orientation.
_MAX_ENTRIES = 1000


def turn_of(exif: bytes) -> Turn:
    """How to turn a picture with this EXIF block, with or without its prefix; upright if it does not say."""
    tiff = exif.removeprefix(EXIF_PREFIX)
    byte_order = _BYTE_ORDERS.get(tiff[:4])
    if byte_order is None:
        return _UPRIGHT
    try:
        return _TURNS.get(_orientation(tiff, byte_order), _UPRIGHT)
    except struct.error:
        # What cannot be read counts as none: thumbnails of phones are cut off there, with their pixels whole.
        return _UPRIGHT


def _orientation(tiff: bytes, byte_order: str) -> int:
    (position,) = struct.unpack_from(f"{byte_order}I", tiff, 4)
    (entries,) = struct.unpack_from(f"{byte_order}H", tiff, position)
    for number in range(min(entries, _MAX_ENTRIES)):
        entry = struct.unpack_from(f"{byte_order}HHIH", tiff, position + 2 + number * _ENTRY_BYTES)
        if entry[:2] == (_ORIENTATION_TAG, _SHORT):
            return int(entry[3])
    return 1
