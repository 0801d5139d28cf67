"""Ways to spoil bytes; the same random generator gives the same ones."""

import random

_SPECIAL = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
_MAX_EDITS = 8


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """`data` with one to eight small edits, or cut off, or spliced with `other`."""
    result = bytearray(data)
    for _ in range(rng.randint(1, _MAX_EDITS)):
        if not result:
            return bytes(result)
        # Headers decide what a decoder does: half of all edits fall into the first hundred bytes.
        end = min(len(result), 100) if rng.random() < 0.5 else len(result)
        position = rng.randrange(end)
        _edit(result, position, other, rng)
    return bytes(result)


def _edit(result: bytearray, position: int, other: bytes, rng: random.Random) -> None:
    match rng.randrange(7):
        case 0:
            result[position] ^= 1 << rng.randrange(8)
        case 1:
            result[position] = rng.choice(_SPECIAL)
        case 2:
            result[position : position + 4] = rng.randbytes(4)
        case 3:
            del result[position : position + rng.randint(1, 64)]
        case 4:
            result[position:position] = result[position : position + rng.randint(1, 64)]
        case 5:
            start = rng.randrange(max(1, len(other)))
            result[position : position + 32] = other[start : start + rng.randint(1, 64)]
        case _:
            if rng.random() < 0.2:
                del result[position:]
