"""No backend: every use says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_embedding_client.effects import Flow
from clip_embedding_client.errors import BackendOff

_MESSAGE = "CLIP_INFERENCE_BACKEND is off"


class OffBackend:
    """For processes that must start without embeddings."""

    name = "off"

    def call(self, path: str, body: Mapping[str, Any], *, timeout_s: float) -> Flow[object]:
        raise BackendOff(_MESSAGE)

    def health(self, *, timeout_s: float) -> Flow[object]:
        raise BackendOff(_MESSAGE)

    def close(self) -> None:
        """Nothing is held."""
