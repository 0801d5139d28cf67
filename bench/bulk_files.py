"""Thumbnails on this machine's disk by `python -m bulk`, full-size model: `python -m bench.bulk_files --rows N`.

What one machine does with all its cores and GPUs, without hosts: the figure that `bench.bulk_plan` foretells for one
machine. Writes bench/results/bulk-files.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from bench.gpu_card import card, watched
from bench.lines import Findings, Line, lines_table
from bench.machine import about, commit
from bench.pod import end_with_pods
from bench.trees import THIS
from bench.workload import RESULTS, ROOT, THUMBNAIL, full_size_model, pictures
from tools.testbed.process import MODEL_CACHE, TINY_MODEL

_ROWS = 100_000
# Of one inode a file system allows no more names than that.
_NAMES_PER_FILE = 10_000
RATE, SECONDS, GPU, WATTS = "vectors/s once running", "s", "GPU %", "GPU W"


def main() -> None:
    """Measure, print and write."""
    options = _options()
    end_with_pods()
    model = str(TINY_MODEL if options.tiny else full_size_model())
    before = about(
        {"rows": options.rows, "model": Path(model).name, "commit": commit(THIS.folder), "card": dict(card())}
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        images = Path(folder) / "images"
        _write(images, options.rows)
        with watched() as watch:
            summary = _embed(images, Path(folder) / "vectors", model, options.more)
    use = watch.use
    figures = {
        RATE: summary["rows_per_second_once_running"] * summary["vectors"] / summary["rows"],
        SECONDS: summary["seconds"],
        GPU: use.busy_percent if use else None,
        WATTS: use.watts if use else None,
        "rejects": float(summary["rejects"]),
    }
    lines = [Line(f"{options.rows:,} files, {THUMBNAIL}", THIS.label, figures)]
    print(lines_table(lines))
    Findings(before, tuple(lines), ()).write(RESULTS / "bulk-files.json")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--tiny", action="store_true", help="the bundled model instead of a ViT-B/32")
    parser.add_argument("--folder", type=Path, help="where the files go; of the machine if not given")
    parser.add_argument("more", nargs="*", help="after --: options of `python -m bulk embed`")
    return parser.parse_args()


def _write(folder: Path, rows: int) -> None:
    """Many names of few files: what is read is in memory either way, and each is opened, read and decoded."""
    folder.mkdir()
    jpegs = pictures(THUMBNAIL)
    for row in range(rows):
        first = folder / f"{row - row % _NAMES_PER_FILE:09}.jpg"
        name = folder / f"{row:09}.jpg"
        if name == first:
            name.write_bytes(jpegs[row // _NAMES_PER_FILE % len(jpegs)])
        else:
            name.hardlink_to(first)


def _embed(images: Path, output: Path, model: str, more: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bulk", "embed", "--input", str(images), "--output", str(output), *more]
    environ = {**os.environ, "CLIP_CACHE_DIR": str(MODEL_CACHE), "CLIP_DTYPE": "auto", "CLIP_MODEL": model}
    subprocess.run(command, env=environ, cwd=ROOT, check=True)  # noqa: S603 - our own
    summary: dict[str, Any] = orjson.loads((output / "summary.json").read_bytes())
    return summary


if __name__ == "__main__":
    main()
