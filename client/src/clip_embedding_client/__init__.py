"""The client of the CLIP embedding service: vectors of images and texts, whichever backend the settings name.

`ClipClient` is for threads, `AsyncClipClient` for asyncio; they do the same.
"""

from clip_embedding_client.async_client import AsyncClipClient
from clip_embedding_client.client import ClipClient
from clip_embedding_client.errors import (
    AuthExpired,
    AuthFailed,
    BackendMisconfigured,
    BackendOff,
    BackendTimeout,
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
    UnavailableError,
    UnreadableResponse,
    WrongResponse,
)
from clip_embedding_client.events import Event, MixRefused, Retried, Switched
from clip_embedding_client.settings import BackendName, ClientSettings
from clip_embedding_client.values import Embedding, Health, ImageItem, TextItem

__all__ = [
    "AsyncClipClient",
    "AuthExpired",
    "AuthFailed",
    "BackendMisconfigured",
    "BackendName",
    "BackendOff",
    "BackendTimeout",
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
    "Switched",
    "TextItem",
    "UnavailableError",
    "UnreadableResponse",
    "WrongResponse",
]
