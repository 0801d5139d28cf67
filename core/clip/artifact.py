"""A model directory: where it is, what it says about itself, and its fingerprint. Never imports torch."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.clip.architecture import Architecture
from core.clip.manifest import Int8Report, read_manifest, verify_files
from core.clip.preprocessing import Preprocessing
from core.errors import StartError

# Hub models are pinned: the same name must give the same vectors next year.
_PINNED_REVISIONS = {"openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"}

# Where RunPod puts an endpoint's cached model before it starts a worker: its documentation's "Cached models".
RUNPOD_MODELS = Path("/runpod-volume/huggingface-cache/hub")
_DEFAULT_BRANCH = "main"

# What the responses call a hub model; deployed workers compare these two strings.
_REPORTED_NAMES = {"openai/clip-vit-base-patch32": ("ViT-B-32", "openai")}

_COMMIT = re.compile(r"[0-9a-f]{40}")

_CONFIG = "config.json"
_TOKENIZER = "tokenizer.json"
# Newer versions of transformers save the first, older ones the second, and the first one counts for those that know it.
_PREPROCESSORS = ("processor_config.json", "preprocessor_config.json")
_IMAGE_PROCESSOR = "image_processor"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

# Of a baked directory, files up to this size are compared by checksum at every start (0.02 s; all of a ViT-B/32 would
# take 2 s). The weights need not be: the fingerprint, which is computed anyway, covers every number in them.
_HASH_AT_START_BYTES = 50_000_000


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A CLIP in Hugging Face layout on disk; `mean` and `std` are per RGB channel, in units of 0..1.

    What decides a vector enters the fingerprint; see `core.clip.fingerprint`.
    """

    path: Path
    model_name: str
    pretrained: str
    architecture: Architecture
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    hub_id: str | None = None
    """Where it was fetched from, now or when it was baked; None for a directory of one's own."""
    baked_fingerprint: str | None = None
    """What the manifest of a baked directory promises; the loader compares."""
    int8: Int8Report | None = None
    """What its manifest says of graphs in int8, if it has any."""

    @property
    def dim(self) -> int:
        """How many floats a vector has."""
        return self.architecture.projection_dim

    @property
    def size_px(self) -> int:
        """The side of the square that the image tower takes."""
        return self.architecture.vision_config.image_size

    @property
    def context_length(self) -> int:
        """How many tokens the text tower takes at most."""
        return self.architecture.text_config.max_position_embeddings

    @property
    def tokenizer_path(self) -> Path:
        return self.path / _TOKENIZER

    @property
    def configuration_files(self) -> Sequence[str]:
        """The names of all files but the weights that the model is read from."""
        return (_CONFIG, _TOKENIZER, *(name for name in _PREPROCESSORS if (self.path / name).is_file()))

    @property
    def weights_path(self) -> Path:
        return next(self.path / name for name in _WEIGHTS if (self.path / name).is_file())


def open_model(
    source: str, *, revision: str | None = None, offline: bool = False, runpod_models: Path = RUNPOD_MODELS
) -> ModelDirectory:
    """Find a model by directory or hub id and read its configuration; a hub model is fetched unless `offline`.

    Raises `StartError` with one line that names what is missing and what to do.
    """
    if os.path.isdir(source):
        return _open_directory(Path(source).resolve())
    if not _is_hub_id(source):
        raise StartError(f"CLIP_MODEL: {source} is neither a directory nor a hub id (owner/name)")
    owner, _, name = source.partition("/")
    model_name, pretrained = _REPORTED_NAMES.get(source, (name, owner))
    revision = revision or _PINNED_REVISIONS.get(source)
    snapshot = find_snapshot(os.environ, source, revision, runpod_models=runpod_models)
    path = snapshot or _fetch(source, revision, offline)
    return replace(_read(path, model_name, pretrained), hub_id=source)


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))


def find_snapshot(
    environ: Mapping[str, str], repo_id: str, revision: str | None, *, runpod_models: Path = RUNPOD_MODELS
) -> Path | None:
    """Return a whole model from a hub's cache, without the 0.3 s that its library takes to be imported.

    A commit, which never changes, is looked for in the user's cache and in RunPod's. What a branch is must be asked of
    the hub, or of its library; but RunPod has asked when it filled its cache, where a reference says the answer. The
    layout is documented as "Understand caching" by huggingface_hub, and so are the variables.
    """
    folder = f"models--{repo_id.replace('/', '--')}"
    cached = runpod_models / folder
    if revision is not None and _COMMIT.fullmatch(revision):
        snapshots = [hub / "snapshots" / revision for hub in (_hub_of_the_user(environ) / folder, cached)]
    else:
        commit = _referred_to(cached / "refs" / (revision or _DEFAULT_BRANCH))
        snapshots = [] if commit is None else [cached / "snapshots" / commit]
    return next((snapshot for snapshot in snapshots if _missing(snapshot) is None), None)


def _hub_of_the_user(environ: Mapping[str, str]) -> Path:
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    hub = environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(hub)).expanduser()


def _referred_to(reference: Path) -> str | None:
    """The commit that a branch was when it was fetched; None where no such file says one."""
    try:
        commit = reference.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _open_directory(path: Path) -> ModelDirectory:
    manifest = read_manifest(path)
    if manifest is None:
        return _read(path, path.name, "local")
    verify_files(path, manifest, hash_up_to_bytes=_HASH_AT_START_BYTES)
    directory = _read(path, manifest.model_name, manifest.pretrained)
    # A model of the hub has a revision there. Without one the source is a directory, though it may look like an id.
    hub_id = manifest.source if manifest.revision is not None and _is_hub_id(manifest.source) else None
    return replace(directory, hub_id=hub_id, baked_fingerprint=manifest.fingerprint, int8=manifest.int8)


def _fetch(repo_id: str, revision: str | None, offline: bool) -> Path:
    from huggingface_hub import snapshot_download  # 0.3 s, and a local directory does not need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    fetch = partial(snapshot_download, repo_id, revision=revision, local_files_only=offline)
    patterns = [_CONFIG, _TOKENIZER, *_PREPROCESSORS]
    try:
        path = Path(fetch(allow_patterns=[*patterns, _WEIGHTS[0]]))
        if not (path / _WEIGHTS[0]).is_file():
            path = Path(fetch(allow_patterns=[*patterns, _WEIGHTS[1]]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise StartError(
            f"CLIP_MODEL: {repo_id} is not in the local cache and could not be fetched:"
            " check the network and the name, or set CLIP_MODEL to a model directory"
        ) from error
    return path


def _missing(path: Path) -> str | None:
    """What a directory lacks to be a model, in words."""
    for name in (_CONFIG, _TOKENIZER):
        if not (path / name).is_file():
            return name
    if not any((path / name).is_file() for name in _PREPROCESSORS):
        return " or ".join(_PREPROCESSORS[::-1])
    if not any((path / name).is_file() for name in _WEIGHTS):
        return f"weights ({' or '.join(_WEIGHTS)})"
    return None


def _read(path: Path, model_name: str, pretrained: str) -> ModelDirectory:
    if (missing := _missing(path)) is not None:
        raise StartError(f"CLIP_MODEL: {path} has no {missing}")
    config = path / _CONFIG
    try:
        architecture = Architecture.of(_json(config))
    except ValueError as error:
        raise StartError(f"CLIP_MODEL: {config} cannot be served: {_in_one_line(error)}") from error
    preprocessing = _preprocessing(path, architecture.vision_config.image_size)
    return ModelDirectory(
        path=path,
        model_name=model_name,
        pretrained=pretrained,
        architecture=architecture,
        mean=preprocessing.image_mean,
        std=preprocessing.image_std,
    )


def _preprocessing(path: Path, size_px: int) -> Preprocessing:
    """What the files say, which must be the same: which one counts would depend on who reads them."""
    found: dict[str, Preprocessing] = {}
    for name in _PREPROCESSORS:
        given = _image_processor(path / name)
        if given is None:
            continue
        try:
            found[name] = Preprocessing.of(given, size_px)
        except ValueError as error:
            raise StartError(f"CLIP_MODEL: {path / name}: {_in_one_line(error)}") from error
    if not found:
        raise StartError(f"CLIP_MODEL: {path / _PREPROCESSORS[0]} has no {_IMAGE_PROCESSOR}")
    first, *others = found.values()
    if any(other != first for other in others):
        raise StartError(f"CLIP_MODEL: {path} has {' and '.join(found)}, which differ: remove one of them")
    return first


def _image_processor(path: Path) -> Any:  # noqa: ANN401 - straight from JSON
    """The part of a file that is about images, None where there is none."""
    if not path.is_file():
        return None
    given = _json(path)
    if path.name == _PREPROCESSORS[0] and isinstance(given, dict):
        return given.get(_IMAGE_PROCESSOR)
    return given


def _in_one_line(error: ValueError) -> str:
    """What is wrong in a file; of pydantic's complaints the first, with the value that was found."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}"
    return f"{where} is {first['input']!r}: {first['msg']}"


def _json(path: Path) -> Any:  # noqa: ANN401 - straight from JSON
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StartError(f"CLIP_MODEL: {path} is not JSON") from error
