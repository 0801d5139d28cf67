"""Where the graphs of OpenVINO lie. Imports neither OpenVINO nor torch: it is asked before either is there."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

logger = logging.getLogger(__name__)

# Raise it when `core/clip/towers.py` would export another graph: old files are then not found any more.
_EXPORT_VERSION = 2

IMAGES = "images.xml"
TEXTS = "texts.xml"

INT8 = "int8"

_SCRATCH = "unfinished-"

# No start takes so long.
_ABANDONED_S = 3600.0

# Inputs of a layer in int8 that share a scale, found for each token while the layer runs: no batch and no calibration
# has a say in it. With more of them it is faster, and less exact (docs/decisions/0030-int8.md).
INT8_GROUP_SIZE = 64


@dataclass(frozen=True, slots=True)
class GraphFiles:
    """The two `graphs` of one model for one version of OpenVINO, and where it keeps them `compiled` for a processor.

    Baking may add those that compute in int8, of both towers or of the images' alone.
    """

    model_fingerprint: str
    graphs: Path
    compiled: Path

    @classmethod
    def of(cls, model: Path, cache: Path, model_fingerprint: str) -> "GraphFiles":
        """Those that were baked into the model directory, else those under `cache`, there already or not."""
        kept = cache / _folder_name(model_fingerprint)
        baked = cls.baked(model, kept, model_fingerprint)
        return baked if baked.exported else cls(model_fingerprint, kept, kept)

    @classmethod
    def baked(cls, model: Path, compiled: Path, model_fingerprint: str) -> "GraphFiles":
        """Where baking puts the graphs: under the fingerprint too, as those of a model that has been changed since are
        not its own."""
        return cls(model_fingerprint, model / _folder_name(model_fingerprint), compiled)

    @property
    def exported(self) -> bool:
        return all((self.graphs / name).is_file() for name in (IMAGES, TEXTS))

    @property
    def kept(self) -> bool:
        """Whether they are under the cache, where they can be exported anew."""
        return self.graphs == self.compiled

    @property
    def int8(self) -> Path:
        """The folder of the graphs in int8, there or not."""
        return self.graphs / INT8

    def in_int8(self, name: str) -> Path | None:
        """Return the graph of one tower in int8; None where there is none."""
        path = self.int8 / name
        return path if path.is_file() else None


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that goes with the block, and those of starts that were killed. Raises `OSError`.

    Those may be as large as a model, and a container that has not enough memory for a start begins again and again.
    """
    for left in parent.glob(f"{_SCRATCH}*"):
        if _age_s(left) > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent) as folder:
        yield Path(folder)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


@contextmanager
def own_cache(kept: Path) -> Iterator[Path | None]:
    """A folder of this start's own, for OpenVINO to keep compiled graphs in: it has those of `kept`, and what is new in
    it is in `kept` afterwards. Where nothing can be written it is `kept` itself, None if that is not there.

    OpenVINO writes a graph over one that is there by then, into the same file. Another start may have read that, and
    uses the file itself as long as it lives.
    """
    with ExitStack() as made:
        own = _own_folder(kept, made)
        if own is None:
            # Nobody writes there.
            yield kept if kept.is_dir() else None
            return
        yield own
        for path in own.glob("*.blob"):
            if not path.is_symlink():
                os.replace(path, kept / path.name)


def _own_folder(kept: Path, made: ExitStack) -> Path | None:
    if not os.access(kept, os.W_OK):
        return None
    try:
        own = made.enter_context(scratch(kept))
        for path in kept.glob("*.blob"):
            (own / path.name).symlink_to(path.resolve())
    except OSError as error:
        logger.warning("compiled graphs are not kept", extra={"folder": str(kept), "cause": error.strerror})
        return None
    return own


def _folder_name(model_fingerprint: str) -> str:
    return f"{model_fingerprint}-openvino-{version('openvino')}-{_EXPORT_VERSION}"
