"""The worker's settings: read from the environment once, into a frozen object; wrong ones name their variable."""

import logging
import re
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from worker.errors import ConfigurationError
from worker.old_names import warn_of_old_names

logger = logging.getLogger(__name__)

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}
# However long an attempt at the fallback may take, the primary keeps a third of a call's seconds.
_MOST_RESERVED = 2 / 3
_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]+|\.")
_OLD_SERVERLESS_NAME = "runpod"
_BACKEND_VARIABLES = ("clip_inference_backend", "clip_fallback_backend")


class BackendName(Enum):
    """Where vectors come from."""

    POD = "runpod_pod"
    SERVERLESS = "runpod_serverless"
    LOCAL = "local"
    OFF = "off"


class WorkerSettings(BaseModel):
    """One field per environment variable, of the same name in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    clip_inference_backend: BackendName
    """`runpod_pod`, `runpod_serverless`, `local` (the core in this process) or `off`."""
    clip_fallback_backend: BackendName | None = None
    """Who answers what the first one cannot: one of the same, or empty."""

    embedding_hmac_secret: SecretStr | None = None
    """The service's secret."""
    allow_insecure_auth: bool = False
    """1 sends unsigned requests when there is no secret."""

    clip_pod_base_url: str | None = None
    """The pod, or a load-balancing endpoint."""
    clip_pod_timeout_s: Seconds = 60.0
    """One attempt at the pod."""

    runpod_api_key: SecretStr | None = None
    """Sent over https only, except to this machine."""
    runpod_clip_endpoint_id: str | None = None
    """The endpoint; `.` is a local server."""
    runpod_base_url: str = "https://api.runpod.ai/v2"
    """Where jobs are sent."""
    runpod_timeout_s: Seconds = 120.0
    """One attempt at the endpoint. RunPod holds `runsync` for up to 90 s before it names the job, and what has no
    name cannot be cancelled.
    """

    clip_connect_timeout_s: Seconds = 5.0
    """One connection."""
    clip_retry_attempts: Positive = 4
    """Of a call, or of an item of a batch, at one backend."""
    clip_total_timeout_s: Seconds = 180.0
    """Of a call at both backends together, with all pauses; the primary leaves the fallback one attempt."""

    clip_batch_size: Positive = 16
    """Items of `embed_images` in one request, at most the service's `MAX_BATCH_SIZE`."""
    clip_concurrent_batches: Positive = 4
    """Of one `embed_images`."""

    clip_breaker_failures: Positive = 2
    """Calls in a row that failed after all their attempts, until the fallback gets every call."""
    clip_breaker_cool_down_s: Seconds = 30.0
    """How long it gets them."""
    clip_expected_fingerprint: str | None = None
    """Refuse vectors of any other model, from either backend."""
    clip_allow_fingerprint_mismatch: bool = False
    """1 mixes vectors that cannot be compared."""

    # What the `local` backend passes on to the service in this process. Holds secrets, hence no repr.
    local_environ: Mapping[str, str] = Field(default_factory=dict, repr=False)

    @field_validator(*_BACKEND_VARIABLES, mode="before")
    @classmethod
    def _rename(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        name = value.strip().lower()
        if name != _OLD_SERVERLESS_NAME:
            return name
        logger.warning(
            "the backend name runpod is old, use runpod_serverless", extra={"backend": BackendName.SERVERLESS.value}
        )
        return BackendName.SERVERLESS.value

    @field_validator("clip_pod_base_url", "runpod_base_url")
    @classmethod
    def _is_base_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http or https URL with a host")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("must have no credentials, query or fragment")
        return value.rstrip("/")

    @field_validator("runpod_clip_endpoint_id")
    @classmethod
    def _is_one_segment(cls, value: str | None) -> str | None:
        """It becomes a part of a path. A lone dot is the SDK's local server, which has no such part."""
        if value is not None and not _ENDPOINT_ID.fullmatch(value):
            raise ValueError("must be an endpoint's id (letters and digits), or . for a local server")
        return value

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings; a variable that is set to nothing counts as not set. Raises `ConfigurationError`."""
        given: dict[str, Any] = {name.lower(): value for name, value in environ.items() if value != ""}
        warn_of_old_names(given)
        given["local_environ"] = dict(environ) if _wants_local(given) else {}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigurationError(_first_line(error)) from error

    def backends(self) -> list[BackendName]:
        """The chosen backend, then the fallback if there is one; `off` is none."""
        fallback = self.clip_fallback_backend
        return [self.clip_inference_backend, *([fallback] if fallback not in (None, BackendName.OFF) else [])]

    def reserve_s(self, fallback: BackendName) -> float:
        """Return the seconds of a call that the primary leaves to the fallback: those of one whole attempt there.

        A primary that hangs would use up all of them, and the fallback would never be asked.
        """
        attempt_s = {BackendName.POD: self.clip_pod_timeout_s, BackendName.SERVERLESS: self.runpod_timeout_s}
        return min(attempt_s.get(fallback, self.clip_total_timeout_s), self.clip_total_timeout_s * _MOST_RESERVED)

    def secret(self) -> str | None:
        """What requests are signed with."""
        return self.embedding_hmac_secret.get_secret_value() if self.embedding_hmac_secret else None


def load_settings(environ: Mapping[str, str]) -> WorkerSettings:
    """Read the settings from `environ`. Raises `ConfigurationError` with one line that names the variable."""
    return WorkerSettings.from_environ(environ)


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine, where nobody else listens."""
    return urlsplit(url).hostname in _LOOPBACK_HOSTS


def _wants_local(given: Mapping[str, str]) -> bool:
    return any(given.get(name, "").strip().lower() == BackendName.LOCAL.value for name in _BACKEND_VARIABLES)


def _first_line(error: ValidationError) -> str:
    """Name the variable and what was expected; the value stays out, it may be a secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    variable = str(first["loc"][0]).upper() if first["loc"] else "settings"
    return f"{variable}: {first['msg']}"
