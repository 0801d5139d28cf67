"""Where the graphs of OpenVINO lie. Imports neither OpenVINO nor torch: it is asked before either is there."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# Raise it when `core/clip/towers.py` would export another graph: old files are then not found any more.
_EXPORT_VERSION = 2

IMAGES = "images.xml"
TEXTS = "texts.xml"


@dataclass(frozen=True, slots=True)
class GraphFiles:
    """The two `graphs` of one model for one version of OpenVINO, and where it keeps them `compiled` for a processor."""

    graphs: Path
    compiled: Path

    @classmethod
    def of(cls, model: Path, cache: Path, model_fingerprint: str) -> "GraphFiles":
        """Those that were baked into the model directory, else those under `cache`, there already or not."""
        kept = cache / _folder_name(model_fingerprint)
        baked = cls.baked(model, kept, model_fingerprint)
        return baked if baked.exported else cls(kept, kept)

    @classmethod
    def baked(cls, model: Path, compiled: Path, model_fingerprint: str) -> "GraphFiles":
        """Where baking puts the graphs: under the fingerprint too, as those of a model that has been changed since are
        not its own."""
        return cls(model / _folder_name(model_fingerprint), compiled)

    @property
    def exported(self) -> bool:
        return all((self.graphs / name).is_file() for name in (IMAGES, TEXTS))


def _folder_name(model_fingerprint: str) -> str:
    return f"{model_fingerprint}-openvino-{version('openvino')}-{_EXPORT_VERSION}"
