"""Files of 10 MB that would cost a decoder minutes, in a process whose processor time is the net: no clock is read."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.testbed import hostile_images as hostile

# Each took 4 to 133 seconds before it was refused by its structure, and takes milliseconds now.
CPU_S = 30
FILE_BYTES = 10_000_000

PROGRAM = """
import sys
from pathlib import Path
from core.errors import ImageError
from core.images.decoding.pixels import PixelDecoder

decoder = PixelDecoder(224, 50_000_000)
data = Path(sys.argv[1]).read_bytes()
for _ in range(int(sys.argv[2])):
    try:
        decoder.decode(data)
        code = "pixels"
    except ImageError as error:
        code = error.code
print(code)
"""
# Often enough that a second each would end the process.
REPEATS = 40


def flood(piece: bytes) -> bytes:
    return piece * (FILE_BYTES // len(piece))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: hostile.behind_start(flood(hostile.EXIF_SEGMENT)), id="EXIF segments"),
        pytest.param(lambda: hostile.behind_start(flood(b"\xff\xe3\0\2")), id="application segments"),
        pytest.param(lambda: hostile.behind_start(flood(b"\xff")), id="fill bytes"),
        pytest.param(lambda: hostile.behind_start(flood(b"\xff\0")), id="stuffed zeros"),
        pytest.param(lambda: hostile.with_scans(11_000), id="scans"),
        pytest.param(lambda: hostile.with_scans(200, flood(b"\xff\xfe\0\2")), id="comments between scans"),
        pytest.param(lambda: hostile.png_with(flood(hostile.png_chunk(b"IDAT"))), id="empty image data"),
        pytest.param(lambda: hostile.png_with(flood(hostile.png_chunk(b"prVt"))), id="private chunks"),
        pytest.param(lambda: hostile.gif_with(flood(b"!\xfe\0")), id="comments in a GIF"),
        pytest.param(lambda: hostile.gif_with(flood(b"\0")), id="padding in a GIF"),
    ],
)
def test_floods_cost_little(make: Callable[[], bytes], tmp_path: Path) -> None:
    """Forty refusals fit into a processor time in which not one such file could be decoded."""
    file = tmp_path / "picture"
    file.write_bytes(make())

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), str(REPEATS)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S)),
    )

    assert "INVALID_IMAGE\n" == done.stdout
