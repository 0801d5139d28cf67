"""From settings to a model that can embed: found, identified, on its device. The one way there for every entry point.

Imports torch only for an engine, or for weights, that need it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.clip.artifact import ModelDirectory, open_model
from core.clip.choice import Choice, import_engine, load_engines
from core.clip.engine import Engine
from core.clip.fingerprint import VERSION_1_EXPLAINED, fingerprint_of_hashes, hash_weights, is_version_1
from core.clip.graph_files import INT8, GraphFiles
from core.clip.hash_record import HashRecord
from core.clip.tokenizer import ClipTokenizer
from core.clip.weights import read_weights
from core.errors import StartError
from core.settings import ServiceSettings

# Reading the tokenizer holds the interpreter for 0.1 s. Compiling needs it for a moment only, but first.
_HEAD_START_S = 0.01


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The engines are cold: the first pass of each takes longer than later ones. `max_batch` is for all of them."""

    directory: ModelDirectory
    fingerprint: str
    engines: Sequence[Engine]
    tokenizer: ClipTokenizer
    max_batch: int


def load_model(settings: ServiceSettings, *, pixel_rules: int) -> LoadedModel:
    """Load what CLIP_MODEL names. Raises `StartError` with one line that names the cause."""
    directory = open_model(settings.clip_model, revision=settings.clip_model_revision)
    choice = Choice.of(settings)
    with ThreadPoolExecutor(2, "load") as threads:
        # Hashing and compiling need no interpreter; an import and the tokenizer need nothing else.
        identified = threads.submit(_identify, directory, choice, settings.cache_folder, pixel_rules)
        import_engine(choice)
        engines = threads.submit(
            load_engines,
            settings,
            directory,
            choice=choice,
            read=partial(read_weights, directory),
            identify=identified.result,
        )
        wait([engines], timeout=_HEAD_START_S)
        tokenizer = ClipTokenizer.of(directory)
        served = _served_as(directory, engines.result(), identified.result())
        return LoadedModel(directory, served, engines.result(), tokenizer, choice.max_batch)


def _identify(directory: ModelDirectory, choice: Choice, cache: Path, pixel_rules: int) -> str:
    """Return the fingerprint. Raises `StartError` for unreadable weights, and when it is not as baked."""

    def name(hashes: bytes) -> str:
        return fingerprint_of_hashes(hashes, directory, pixel_rules=pixel_rules)

    _require_this_version(directory)
    if choice.engine == "openvino":
        return _as_baked(directory, _recall_or_hash(directory, cache, name))
    return _as_baked(directory, name(hash_weights(read_weights(directory))))


def _served_as(directory: ModelDirectory, engines: Sequence[Engine], model_fingerprint: str) -> str:
    """Return the model's fingerprint, or that of its graphs in int8 where those were let pass with more of an error."""
    if directory.int8 is None or engines[0].dtype != INT8:
        return model_fingerprint
    return directory.int8.fingerprint


def _recall_or_hash(directory: ModelDirectory, cache: Path, name: Callable[[bytes], str]) -> str:
    """A record counts only where nobody reads the weights: the vectors then come from graphs of that very name."""
    record = HashRecord.of(directory.weights_path, cache)
    recalled = record.recall()
    if recalled is not None and GraphFiles.of(directory.path, cache, name(recalled)).exported:
        return name(recalled)
    hashes = hash_weights(read_weights(directory))
    record.remember(hashes)
    return name(hashes)


def _require_this_version(directory: ModelDirectory) -> None:
    baked = directory.baked_fingerprint
    if baked is not None and is_version_1(baked):
        raise StartError(
            f"CLIP_MODEL: the manifest of {directory.path} says {baked}, {VERSION_1_EXPLAINED}: bake it again"
        )


def _as_baked(directory: ModelDirectory, model_fingerprint: str) -> str:
    if directory.baked_fingerprint not in (None, model_fingerprint):
        raise StartError(
            f"CLIP_MODEL: the fingerprint of {directory.path} is {model_fingerprint} and its manifest says"
            f" {directory.baked_fingerprint}: the files or the rules have changed, bake it again"
        )
    return model_fingerprint
