"""`python -m core.clip.bake SOURCE TARGET`: turns a hub model or a model directory into a baked one, or fails.

A baked directory holds safetensors, tokenizer and configuration, for CPUs the graphs of OpenVINO too, and a manifest
with the checksum of each, the names that answers report, and the fingerprint. Nothing is published that was not
compared with transformers before.
"""

import argparse
import io
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPProcessor

from core.clip import pickled
from core.clip.artifact import ModelDirectory, open_model
from core.clip.engine import Engine
from core.clip.fingerprint import VERSION_1_EXPLAINED, fingerprint, is_version_1
from core.clip.graph_files import GraphFiles
from core.clip.int8.judgement import SAME_VECTORS
from core.clip.int8.material import drawn, read_folder
from core.clip.int8.table import int8_table
from core.clip.manifest import MANIFEST, Int8Report, Manifest, describe, read_manifest, verify_files
from core.clip.reference import load_reference
from core.clip.tokenizer import ClipTokenizer
from core.clip.torch_engine import TorchEngine
from core.clip.towers import Towers
from core.clip.weights import read_weights
from core.errors import StartError
from core.images.decoding.pixels import PixelDecoder
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.process import cpu

_WEIGHTS = "model.safetensors"

# Error relative to the distance between different inputs. Texts see only float32 rounding; images also see our decoder
# and resize, which round to whole grey levels in another order than Pillow.
_TEXT_TOLERANCE = 1e-4
_IMAGE_TOLERANCE = 1e-2

_SIZES_PX = ((320, 240), (224, 224), (500, 333), (256, 640))
_TEXTS = ("a red circle", "two dogs play in the snow", "a city at night, seen from above", "x")

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Int8:
    """Graphs in int8 as well: calibrated and judged on the files of a folder, or on drawn pictures without one."""

    folder: Path | None = None
    max_error: float = SAME_VECTORS


def bake(
    source: str,
    target: Path,
    *,
    revision: str | None = None,
    expected: str | None = None,
    openvino: bool = False,
    int8: Int8 | None = None,
) -> Manifest:
    """Write `target`, which must not exist, from a hub id or a model directory; return its manifest.

    `expected` is a fingerprint to insist on; `openvino` adds what a start on a CPU would otherwise export first, and
    `int8` that and more. Raises `StartError` with one line; then there is no `target`.
    """
    if expected is not None and is_version_1(expected):
        raise StartError(f"expected is {expected}, {VERSION_1_EXPLAINED}: bake once without it")
    if target.exists():
        raise StartError(f"{target} exists: remove it, or bake into another directory")
    verify_source(Path(source))
    original = open_model(source, revision=revision)
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        manifest = _fill(unfinished, original, source, openvino=openvino or int8 is not None, int8=int8)
        if expected is not None and manifest.fingerprint != expected:
            raise StartError(f"the fingerprint of {source} is {manifest.fingerprint}, expected {expected}")
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def verify_source(directory: Path) -> None:
    """Check every checksum of a source that is itself baked. Raises `StartError`."""
    manifest = read_manifest(directory)
    if manifest is not None:
        verify_files(directory, manifest)


def _fill(directory: Path, original: ModelDirectory, source: str, *, openvino: bool, int8: Int8 | None) -> Manifest:
    for name in original.configuration_files:
        shutil.copyfile(original.path / name, directory / name)
    _write_weights(original, directory / _WEIGHTS)
    baked = open_model(str(directory))
    fingerprints = [_fingerprint(original), _fingerprint(baked)]
    if fingerprints[0] != fingerprints[1]:
        raise StartError(f"the fingerprint changed from {fingerprints[0]} to {fingerprints[1]} while baking")
    compare_with_transformers(baked)
    graphs, report = _graphs(baked, fingerprints[1], int8) if openvino else ([], None)
    manifest = Manifest(
        source=original.hub_id or source,
        revision=_revision(original, source),
        model_name=original.model_name,
        pretrained=original.pretrained,
        fingerprint=fingerprints[1],
        files={name: describe(directory / name) for name in (*baked.configuration_files, _WEIGHTS, *graphs)},
        int8=report,
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    _let_everybody_read(directory)
    return manifest


def _write_weights(original: ModelDirectory, path: Path) -> None:
    if original.weights_path.name == _WEIGHTS:
        shutil.copyfile(original.weights_path, path)
        return
    # Copies: a checkpoint's tensors may share memory, which safetensors refuses.
    tensors = pickled.read(original.weights_path)
    copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})


def _graphs(
    directory: ModelDirectory, model_fingerprint: str, int8: Int8 | None
) -> tuple[list[str], Int8Report | None]:
    """Add the graphs of OpenVINO, compared as well; return their names in the directory, and what int8 costs."""
    from core.clip.openvino_engine import OpenVinoEngine
    from core.clip.openvino_export import export

    with tempfile.TemporaryDirectory() as compiled:
        files = GraphFiles.baked(directory.path, Path(compiled), model_fingerprint)
        export(Towers.of(directory, read_weights(directory)), files.graphs, size_px=directory.size_px)
        compare_with_transformers(directory, OpenVinoEngine(files, dtype="float32", threads=cpu.available_cores()))
        report = None if int8 is None else _add_int8(directory, files, int8)
    names = [str(path.relative_to(directory.path)) for path in files.graphs.rglob("*") if path.is_file()]
    return sorted(names), report


def _add_int8(directory: ModelDirectory, files: GraphFiles, int8: Int8) -> Int8Report:
    from core.clip.int8.baking import add_int8

    halves = drawn(directory.size_px) if int8.folder is None else read_folder(int8.folder, directory.size_px)
    return add_int8(directory, files, halves, max_error=int8.max_error)


def _fingerprint(directory: ModelDirectory) -> str:
    return fingerprint(read_weights(directory), directory, pixel_rules=PIXEL_RULES_VERSION)


def _revision(original: ModelDirectory, source: str) -> str | None:
    """The hub's cache keeps a snapshot in a folder of its commit's name; a baked source says it itself."""
    manifest = read_manifest(original.path)
    if manifest is not None:
        return manifest.revision
    return None if Path(source).is_dir() else original.path.name


def _let_everybody_read(directory: Path) -> None:
    """The service runs as another user than the build, and a hub's cache may be private."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def compare_with_transformers(directory: ModelDirectory, engine: Engine | None = None) -> None:
    """Embed a few images and texts through our own path and through transformers' model and processor.

    Without an `engine`, torch's on the CPU in float32 is compared.
    Raises `StartError` when the vectors differ by more than rounding explains.
    """
    reference = load_reference(directory)
    processor = CLIPProcessor.from_pretrained(directory.path)
    engine = engine or TorchEngine(Towers.of(directory, read_weights(directory)), device="cpu", dtype="float32")
    pictures = [_picture(width, height, seed) for seed, (width, height) in enumerate(_SIZES_PX)]
    decoder = PixelDecoder(directory.size_px, max_pixels=1_000_000)
    tokenizer = ClipTokenizer.of(directory)
    with torch.inference_mode():
        images = reference.get_image_features(**processor(images=pictures, return_tensors="pt"))
        texts = reference.get_text_features(
            **processor(
                text=list(_TEXTS),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=directory.context_length,
            )
        )
    ours = engine.encode_images(np.stack([decoder.decode(_as_png(picture)) for picture in pictures]))
    _require_close("images", images.pooler_output.numpy(), ours, _IMAGE_TOLERANCE)
    ours = engine.encode_texts(tokenizer.pad([tokenizer.encode(text)[0] for text in _TEXTS]))
    _require_close("texts", texts.pooler_output.numpy(), ours, _TEXT_TOLERANCE)


def _require_close(what: str, expected: Vectors, actual: Vectors, tolerance: float) -> None:
    spread = np.mean([np.linalg.norm(one - other) for one, other in combinations(expected, 2)])
    error = float(np.mean(np.linalg.norm(expected - actual, axis=1)) / spread)
    # Not `error > tolerance`: a NaN must not pass.
    if not error <= tolerance:
        raise StartError(f"the vectors of {what} differ from transformers' by {error:.1e}, allowed is {tolerance:.0e}")


def _picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth coloured patches: structure that survives a resize."""
    patches = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def _as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def main(arguments: Sequence[str]) -> None:
    """Bake, print what came out, and end with status 1 and one line when that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m core.clip.bake", description="Prepare a model directory for serving."
    )
    parser.add_argument("source", help="hub id (owner/name) or model directory")
    parser.add_argument("target", type=Path, help="directory to write; must not exist")
    parser.add_argument("--revision", help="commit of a hub model, instead of the pinned one")
    parser.add_argument("--fingerprint", help="fail unless the model has this fingerprint")
    parser.add_argument("--openvino", action="store_true", help="for CPUs: add what their first start would export")
    parser.add_argument("--int8", action="store_true", help="for CPUs: add int8 as well, if it is exact enough")
    parser.add_argument(
        "--calibrate", type=Path, metavar="FOLDER", help="for --int8: images, and texts as lines of .txt files"
    )
    parser.add_argument(
        "--max-error", type=float, default=SAME_VECTORS, help="of int8, as a share of the spread (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.calibrate is not None and not options.int8:
        parser.error("--calibrate is for --int8")
    try:
        manifest = bake(
            options.source,
            options.target,
            revision=options.revision or None,
            expected=options.fingerprint or None,
            openvino=options.openvino,
            int8=Int8(options.calibrate, options.max_error) if options.int8 else None,
        )
    except (StartError, OSError) as error:
        sys.exit(f"cannot bake: {error}")
    if manifest.int8 is not None:
        print(int8_table(manifest.int8))
    print(
        f"baked {manifest.source} into {options.target}: {manifest.model_name} ({manifest.pretrained}),"
        f" fingerprint {manifest.fingerprint}, {sum(entry.size_bytes for entry in manifest.files.values())} bytes"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
