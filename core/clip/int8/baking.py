"""Adds int8 to a model that is being baked, if it stays within the bound; otherwise says what it would take."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.clip.artifact import ModelDirectory
from core.clip.engine import Engine
from core.clip.fingerprint import fingerprint_of_variant
from core.clip.graph_files import INT8, GraphFiles
from core.clip.int8.judgement import SAME_VECTORS, Agreement, Error
from core.clip.int8.material import Halves
from core.clip.int8.selection import MOST_LEFT, Layer, choose_layers_to_leave
from core.clip.int8.trial import Subject, each_layer, rates, subjects, try_int8
from core.clip.manifest import Int8Report, TowerInInt8
from core.clip.openvino_engine import OpenVinoEngine
from core.errors import StartError
from core.process import cpu

_SHOWN_LAYERS = 5

# So that the bound that is named, of three decimals, is not below the error.
_ROUNDING_UP = 5e-4

logger = logging.getLogger(__name__)


def add_int8(
    directory: ModelDirectory, files: GraphFiles, halves: Halves, *, max_error: float = SAME_VECTORS
) -> Int8Report:
    """Write graphs in int8 beside those in float32, which must be there, and return what they cost.

    Raises `StartError` for images whose mean error is over `max_error`, and says which layers are to blame. Texts over
    it stay as they are.
    """
    floats = OpenVinoEngine(files, dtype="float32", threads=cpu.available_cores())
    files.int8.mkdir()
    images, texts = subjects(directory, halves)
    of_images = _judged(images, files, floats, max_error)
    if not of_images.accepted:
        shutil.rmtree(files.int8)
        raise StartError(f"int8 is refused: {_why_not(images, of_images, max_error)}")
    of_texts = _judged(texts, files, floats, max_error)
    if not of_texts.accepted:
        logger.warning("texts stay as they were: %s", _why_not(texts, of_texts, max_error))
    towers = {subject.what: tower.report for subject, tower in ((images, of_images), (texts, of_texts))}
    engine = OpenVinoEngine(files, dtype=INT8, threads=cpu.available_cores())
    agreement = Agreement.of(*((texts.encode(one), images.encode(one)) for one in (floats, engine)))
    return Int8Report(
        fingerprint=_fingerprint(files, towers),
        max_error=max_error,
        calibrated_on=halves.source,
        pictures=len(halves.judgement.pictures),
        texts=len(halves.judgement.texts),
        processor=cpu.processor(),
        top_1=agreement.top_1,
        top_10=agreement.top_10,
        towers=towers,
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """The report on a tower, and each layer's own cost where that had to be found out."""

    report: TowerInInt8
    layers: Mapping[str, Layer]
    all_layers: Error

    @property
    def accepted(self) -> bool:
        return self.report.accepted


def _judged(subject: Subject, files: GraphFiles, floats: Engine, max_error: float) -> _Judged:
    """Round all layers, and where that is too much, all but the worst. A graph that is not accepted is removed."""
    expected = subject.encode(floats)
    trial = whole = try_int8(subject, files, expected, leave=frozenset())
    layers: Mapping[str, Layer] = {}
    if whole.error.mean > max_error:
        logger.warning("%s: all layers in int8 are too much, %.1f%%", subject.what, 100 * whole.error.mean)
        layers = each_layer(subject, whole, expected)
        leave = choose_layers_to_leave(layers, error=whole.error.mean, bound=max_error)
        if leave is not None:
            trial = try_int8(subject, files, expected, leave=leave)
    engine = OpenVinoEngine(files, dtype=INT8, threads=cpu.available_cores())
    float32_per_s, int8_per_s = rates(subject, floats, engine)
    graph = files.int8 / subject.file
    report = TowerInInt8(
        accepted=trial.error.mean <= max_error,
        error_mean=trial.error.mean,
        error_p99=trial.error.p99,
        layers=len(trial.rounded.layers) + len(trial.left),
        left_in_float=trial.left,
        float32_per_s=float32_per_s,
        int8_per_s=int8_per_s,
        float32_bytes=_bytes(files.graphs / subject.file),
        int8_bytes=_bytes(graph),
    )
    if not report.accepted:
        graph.unlink()
        graph.with_suffix(".bin").unlink()
    return _Judged(report, layers, whole.error)


def _why_not(subject: Subject, judged: _Judged, max_error: float) -> str:
    report, worst = judged.report, sorted(judged.layers.values(), key=lambda layer: layer.error, reverse=True)
    each = ", ".join(f"{layer.name} {_percent(layer.error)}" for layer in worst[:_SHOWN_LAYERS])
    left, passing = len(report.left_in_float), judged.all_layers.mean + _ROUNDING_UP
    mixed = (
        f"with {left} of {report.layers} layers left in floating point it is {_percent(report.error_mean)}"
        if left
        else f"leaving layers that do up to {MOST_LEFT:.0%} of the work in floating point would not do"
    )
    return (
        f"the vectors of {subject.what} are off by {_percent(judged.all_layers.mean)} of their spread on average,"
        f" allowed is {_percent(max_error)}; {mixed}. The layers that cost most, each alone: {each}."
        f" All layers pass with --max-error {passing:.3f}"
        + (", under a fingerprint of their own" if passing > SAME_VECTORS else "")
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _fingerprint(files: GraphFiles, towers: Mapping[str, TowerInInt8]) -> str:
    """The model's, unless more was let pass than what is called the same."""
    if all(tower.error_mean <= SAME_VECTORS for tower in towers.values() if tower.accepted):
        return files.model_fingerprint
    return fingerprint_of_variant(files.model_fingerprint, (path.read_bytes() for path in sorted(files.int8.iterdir())))


def _bytes(graph: Path) -> int:
    return graph.with_suffix(".bin").stat().st_size
