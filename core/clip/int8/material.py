"""The pictures and texts that int8 is calibrated and judged on: a folder of the user's own, or drawn ones instead."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from core.errors import ImageError, StartError
from core.images.decoding.pixels import PixelDecoder

Pixels = npt.NDArray[np.uint8]

# Of each kind, for calibrating and for judging apiece. Below the least, what is measured says nothing; more than the
# most makes hardly a difference to the error and takes minutes.
LEAST = 16
MOST_PICTURES = 128
MOST_TEXTS = 1024

_TEXT_SUFFIX = ".txt"
_MAX_PIXELS = 50_000_000
_DRAWN_PICTURES = 2 * MOST_PICTURES

_COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown")
_THINGS = (
    "dog", "car", "boat", "house", "horse", "child", "flower", "bicycle", "bridge", "train", "bird", "table",
    "cat", "church", "tractor", "umbrella", "woman", "kitchen", "mountain", "bus", "guitar", "cake", "tower", "sheep",
)  # fmt: skip
_SCENES = (
    "in the snow", "at night", "beside a river", "seen from above", "in a crowded street", "on a sunny beach",
    "behind a window", "in an old painting", "with two people", "under a tree", "before a storm", "close up",
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """`pictures` as uint8 (n, 3, size, size); each of the two is for one purpose, and nothing is in both."""

    pictures: Pixels
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Halves:
    """Different things to calibrate on and to judge by; `source` says where they are from, in words."""

    calibration: Material
    judgement: Material
    source: str


def read_folder(folder: Path, size_px: int) -> Halves:
    """Read every image below `folder`, and of every .txt file each line as a text; what is no image is passed over.

    Without enough texts, drawn up ones are taken. Raises `StartError` without enough images.
    """
    decoder, pictures, texts = PixelDecoder(size_px, max_pixels=_MAX_PIXELS), dict[str, Pixels](), dict[str, None]()
    for path in _files(folder):
        data = path.read_bytes()
        if path.suffix.lower() == _TEXT_SUFFIX:
            lines = data.decode(errors="replace").splitlines()
            texts.update(dict.fromkeys(line.strip() for line in lines if line.strip()))
        elif len(pictures) < 2 * MOST_PICTURES:
            try:
                # By content: the same picture twice must not be on both sides.
                pictures.setdefault(hashlib.sha256(data).hexdigest(), decoder.decode(data))
            except ImageError:
                logger.info("not an image", extra={"file": path.name})
    if len(pictures) < 2 * LEAST:
        raise StartError(
            f"--calibrate: {folder} has {len(pictures)} different images: {2 * LEAST} are needed, and"
            f" {2 * MOST_PICTURES} like those that you will search are best"
        )
    source = f"{len(pictures)} images of {folder.name}"
    if len(texts) < 2 * LEAST:
        logger.warning("texts are made up: the folder has too few in .txt files", extra={"texts": len(texts)})
        return _halves(list(pictures.values()), _made_up_texts(), f"{source}, made-up texts")
    return _halves(list(pictures.values()), list(texts), f"{source}, its texts")


def drawn(size_px: int) -> Halves:
    """Return pictures and texts that stand in for a user's own, which nobody should rely on."""
    logger.warning("int8 is judged on drawn pictures: give a folder of your own to know what it costs you")
    pictures = [_draw(size_px, seed) for seed in range(_DRAWN_PICTURES)]
    return _halves(pictures, _made_up_texts(), "drawn pictures, made-up texts")


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise StartError(f"--calibrate: {folder} is not a folder")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _halves(pictures: Sequence[Pixels], texts: Sequence[str], source: str) -> Halves:
    """Every other one, so that what lies together in a folder is on both sides."""
    pictures, texts = pictures[: 2 * MOST_PICTURES], texts[: 2 * MOST_TEXTS]
    calibration, judgement = (Material(np.stack(pictures[side::2]), texts[side::2]) for side in (0, 1))
    return Halves(calibration, judgement, source)


def _made_up_texts() -> list[str]:
    """Two thousand, of four to nine words."""
    # An odd number of colours: every other text then has each of them.
    things = [f"{colour} {thing}" for thing, colour in product(_THINGS, _COLOURS)]
    return [
        *(f"a photo of a {thing}" for thing in things),
        *(f"a {thing} {scene}" for scene in _SCENES for thing in things),
    ]


def _draw(size_px: int, seed: int) -> Pixels:
    """Patches of colour of three sizes over each other: edges of noise would be like no photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size_px, size_px, 3))
    for cells, weight in ((3, 0.6), (9, 0.3), (40, 0.1)):
        patches = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(patches.resize((size_px, size_px), Image.Resampling.BICUBIC), np.float64)
    return np.ascontiguousarray(total.round().astype(np.uint8).transpose(2, 0, 1))
