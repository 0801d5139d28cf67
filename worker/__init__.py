"""The client library of the CLIP embedding service: one client, whichever backend the settings name.

Needs neither torch nor a web framework; the backend `local` imports the service's core when it is first used.
"""

from worker.client import ClipClient, create_clip_client
from worker.errors import (
    AuthExpired,
    AuthFailed,
    BackendMisconfigured,
    BackendOff,
    BackendTimeout,
    ClipClientError,
    ConfigurationError,
    ConnectionFailed,
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
from worker.settings import BackendName, WorkerSettings, load_settings
from worker.values import Embedding, Health, ImageItem

__all__ = [
    "AuthExpired",
    "AuthFailed",
    "BackendMisconfigured",
    "BackendName",
    "BackendOff",
    "BackendTimeout",
    "ClipClient",
    "ClipClientError",
    "ConfigurationError",
    "ConnectionFailed",
    "Embedding",
    "FingerprintMismatch",
    "FingerprintUnknown",
    "Health",
    "ImageItem",
    "JobCancelled",
    "JobFailed",
    "JobTimedOut",
    "PermanentError",
    "RetryableError",
    "UnavailableError",
    "UnreadableResponse",
    "WorkerSettings",
    "WrongResponse",
    "create_clip_client",
    "load_settings",
]
