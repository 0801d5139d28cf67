"""Does every CLIP give transformers' vectors, through every engine in every numeric type of this machine?

`python -m bench.parity` makes each model of `bench.clips` in full size with random weights, one after the other (the
largest takes 12 GB of memory and 16 GB of disk for a while), and embeds the same pixels and token ids both ways.
Writes bench/results/parity.json. Ends with status 1 where a difference is larger than the tests allow.
"""

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec

import numpy as np
import numpy.typing as npt
import torch

from bench.arithmetic import relative_error
from bench.clips import CLIPS, CONTEXT_LENGTH, VOCABULARY, Clip, ends, make
from bench.machine import about
from bench.workload import RESULTS
from core.clip.artifact import open_model
from core.clip.loading import load_model
from core.images.decoding.rules import PIXEL_RULES_VERSION
from core.process import cpu
from core.settings import load_settings
from tools.testbed.pictures import natural

Vectors = npt.NDArray[np.float32]
Arguments = ParamSpec("Arguments")

IMAGES, TEXTS = "images", "texts"
_PICTURES = 8
_TOKENS = (3, 5, 8, 12, 20, 40, 60, CONTEXT_LENGTH)
_PADDING_ID = 0  # "!", as OpenCLIP's tokenizers pad

# Relative to the spread, as in tests/core/clip/test_parity.py: for towers of twelve layers. Each layer rounds for
# itself, so that errors add up as the steps of a random walk do.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2.5e-2}
_LAYERS = 12


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of vectors of norm 1, pair by pair; `error` is that of the vectors as they are, relative to the spread.

    `cosine_of_others` is the mean between different inputs: how much `cosine_min` says.
    """

    clip: str
    engine: str
    dtype: str
    what: str
    dim: int
    cosine_min: float
    difference_max: float
    error: float
    cosine_of_others: float

    @classmethod
    def of(cls, way: tuple[str, str, str], what: str, expected: Vectors, actual: Vectors) -> "Agreement":
        """Of the vectors (n, dim) of the same inputs; `way` is clip, engine and numeric type."""
        ours, theirs = (_unit(rows.astype(np.float64)) for rows in (actual, expected))
        count = len(theirs)
        others = (theirs @ theirs.T).sum() - count
        return cls(
            *way,
            what,
            dim=theirs.shape[1],
            cosine_min=float((ours * theirs).sum(axis=1).min()),
            difference_max=float(np.abs(ours - theirs).max()),
            error=relative_error(expected, actual),
            cosine_of_others=float(others / (count * (count - 1))),
        )

    def allowed(self, layers: int) -> bool:
        """Whether the numeric type explains the error, in a tower of `layers`."""
        # Not `error > ...`: a NaN must not pass.
        return self.error <= TOLERANCE[self.dtype] * sqrt(max(1, layers / _LAYERS))


def main() -> None:
    """Compare, print a line for each comparison and write bench/results/parity.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=CLIPS, action="append", help="one of the models; may be repeated")
    parser.add_argument("--layers", type=int, help="of each tower, instead of the true number")
    options = parser.parse_args()
    # Unwinds as Ctrl-C does: what is on disk by then is gigabytes.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))
    names, rows, refused = options.only or list(CLIPS), list[Agreement](), 0
    print(_line("clip", "engine", "dtype", "what", "dim", "cosine min", "max diff", "error/spread", "others"))
    described = about({"tolerance": TOLERANCE})
    for name in names:
        for row in compare(name, CLIPS[name], options.layers):
            rows.append(row)
            tower = CLIPS[name].images if row.what == IMAGES else CLIPS[name].texts
            allowed = row.allowed(options.layers or tower.layers)
            refused += not allowed
            print(_row(row) + ("" if allowed else " TOO MUCH"), flush=True)
    if options.only is None and options.layers is None:
        report = {"about": described, "rows": [asdict(row) for row in rows]}
        (RESULTS / "parity.json").write_text(json.dumps(report, indent=2) + "\n")
    if refused:
        sys.exit("some vectors differ from transformers' by more than their numeric type explains")


def compare(name: str, clip: Clip, layers: int | None) -> Iterator[Agreement]:
    """All engines and numeric types beside transformers. Each runs in a process of its own, and leaves no memory."""
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        model, cache = Path(scratch) / "model", Path(scratch) / "cache"
        expected = _apart(reference, clip, model, layers)
        for engine, dtype in ways():
            actual = _apart(embed, str(model), str(cache), engine, dtype)
            for what in (IMAGES, TEXTS):
                yield Agreement.of((name, engine, dtype), what, expected[what], actual[what])


def ways() -> list[tuple[str, str]]:
    """Engine and numeric type, of what this machine has."""
    engines = ["torch"] + ["openvino"] * (importlib.util.find_spec("openvino") is not None)
    return [(engine, dtype) for engine in engines for dtype in TOLERANCE if dtype == "float32" or cpu.has_bfloat16()]


def reference(clip: Clip, target: Path, layers: int | None) -> dict[str, Vectors]:
    """Make the model, and embed with transformers: normalised pixels; texts padded to the whole context and masked."""
    clip_model = make(clip, target, layers=layers)
    directory = open_model(str(target))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (directory.mean, directory.std))
    texts = token_ids()
    padded = np.full((len(texts), CONTEXT_LENGTH), _PADDING_ID, dtype=np.int64)
    mask = np.zeros_like(padded)
    for row, seen, ids in zip(padded, mask, texts, strict=True):
        row[: len(ids)], seen[: len(ids)] = ids, 1
    normalised = (torch.from_numpy(pixels(clip.size_px)) / 255 - mean) / std
    with torch.inference_mode():
        images = clip_model.get_image_features(pixel_values=normalised)
        encoded = clip_model.get_text_features(
            input_ids=torch.from_numpy(padded), attention_mask=torch.from_numpy(mask)
        )
    return {IMAGES: images.pooler_output.numpy(), TEXTS: encoded.pooler_output.numpy()}


def embed(model: str, cache: str, engine_name: str, dtype: str) -> dict[str, Vectors]:
    """The same inputs through the service's own way from a directory to vectors."""
    settings = load_settings({
        "CLIP_MODEL": model, "CLIP_CACHE_DIR": cache, "CLIP_ENGINE": engine_name, "CLIP_DTYPE": dtype,
        "CLIP_DEVICE": "cpu", "ALLOW_INSECURE_AUTH": "1",
    })  # fmt: skip
    loaded = load_model(settings, pixel_rules=PIXEL_RULES_VERSION)
    [engine] = loaded.engines
    engine.prepare_thread()
    # One by one as well as together: a text's own width is another path through the tower.
    texts = [engine.encode_texts(loaded.tokenizer.pad([ids])) for ids in token_ids()[::2]]
    together = engine.encode_texts(loaded.tokenizer.pad(token_ids()))
    together[::2] = np.concatenate(texts)
    return {IMAGES: engine.encode_images(pixels(loaded.directory.size_px)), TEXTS: together}


def pixels(size_px: int) -> npt.NDArray[np.uint8]:
    """Natural-looking pictures of the model's own size: nothing here measures a resize."""
    pictures = [np.asarray(natural(size_px, size_px, seed)) for seed in range(_PICTURES)]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def token_ids() -> list[npt.NDArray[np.int64]]:
    """Texts of many lengths, of any token there is."""
    rng, (start, end) = np.random.default_rng(0), ends(VOCABULARY)
    inner = [rng.integers(0, start, count - 2, dtype=np.int64) for count in _TOKENS]
    return [np.array([start, *ids, end], dtype=np.int64) for ids in inner]


def _apart(
    function: Callable[Arguments, dict[str, Vectors]], *arguments: Arguments.args, **named: Arguments.kwargs
) -> dict[str, Vectors]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments, **named).result()


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    norms: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return norms


def _row(row: Agreement) -> str:
    figures = (f"{row.cosine_min:.7f}", f"{row.difference_max:.1e}", f"{row.error:.1e}", f"{row.cosine_of_others:.3f}")
    return _line(row.clip, row.engine, row.dtype, row.what, str(row.dim), *figures)


def _line(*cells: str) -> str:
    widths: Sequence[int] = (18, 9, 9, 7, 5, 11, 9, 13, 7)
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


if __name__ == "__main__":
    main()
