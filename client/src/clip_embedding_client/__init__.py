"""The client of the CLIP embedding service: vectors of images and texts, whichever backend the settings name.

`ClipClient` is for threads, `AsyncClipClient` for asyncio; they do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_embedding_client.client import ClipClient
from clip_embedding_client.errors import (
    AuthExpired,
    AuthFailed,
    BackendMisconfigured,
    BackendOff,
    BackendTimeout,
    ClientClosed,
    ClipClientError,
    ConfigurationError,
    ConnectionFailed,
    FileUnreadable,
    FingerprintMismatch,
    FingerprintUnknown,
    JobCancelled,
    JobFailed,
    JobTimedOut,
    PermanentError,
    RetryableError,
    SetupError,
    UnavailableError,
    UnreadableResponse,
    WrongResponse,
)
from clip_embedding_client.events import Event, MixRefused, Retried, Switched
from clip_embedding_client.settings import BackendName, ClientSettings
from clip_embedding_client.values import Embedding, Health, ImageItem, TextItem

if TYPE_CHECKING:
    from clip_embedding_client.async_client import AsyncClipClient

__all__ = [
    "AsyncClipClient",
    "AuthExpired",
    "AuthFailed",
    "BackendMisconfigured",
    "BackendName",
    "BackendOff",
    "BackendTimeout",
    "ClientClosed",
    "ClientSettings",
    "ClipClient",
    "ClipClientError",
    "ConfigurationError",
    "ConnectionFailed",
    "Embedding",
    "Event",
    "FileUnreadable",
    "FingerprintMismatch",
    "FingerprintUnknown",
    "Health",
    "ImageItem",
    "JobCancelled",
    "JobFailed",
    "JobTimedOut",
    "MixRefused",
    "PermanentError",
    "Retried",
    "RetryableError",
    "SetupError",
    "Switched",
    "TextItem",
    "UnavailableError",
    "UnreadableResponse",
    "WrongResponse",
]

# Not for type checkers, which would take any name for one of this module's.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import `AsyncClipClient` when it is asked for: nobody else needs httpx, a fifth of what importing takes."""
        if name != "AsyncClipClient":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from clip_embedding_client.async_client import AsyncClipClient

        return AsyncClipClient

    def __dir__() -> list[str]:
        return sorted(__all__)
