"""No backend: every use says so."""

from collections.abc import Mapping
from typing import Any

from worker.errors import BackendOff

_MESSAGE = "CLIP_INFERENCE_BACKEND is off"


class OffBackend:
    """For workers that must start without embeddings."""

    name = "off"

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> object:
        raise BackendOff(_MESSAGE)

    def health(self, *, timeout_s: float) -> object:
        raise BackendOff(_MESSAGE)

    def close(self) -> None:
        """Nothing is held."""
