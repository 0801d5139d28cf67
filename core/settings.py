"""The service's settings: read from the environment once, at an entry point, into a frozen object."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from core.errors import StartError
from core.secret_settings import NamedSecrets, mounted, require_replaced
from shared_auth.contract import IMAGES_PER_BATCH, TEXTS_PER_BATCH

DEFAULT_MODEL = "openai/clip-vit-base-patch32"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

Positive = Annotated[int, Field(gt=0)]
# A year: what waits so long is off, and clocks and timers take it.
Seconds = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]


class ServiceSettings(BaseModel):
    """One field per environment variable, of the same name in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Where it listens; `0.0.0.0` in the images."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Where it listens."""
    workers: Literal["auto"] | Annotated[int, Field(gt=0, le=16)] = 1
    """Processes of the pod, each with a model of its own: 1.5 GB of each GPU for a ViT-B/32. `auto` is 1 on a CPU, of
    which one model uses all cores; with a GPU one for every four cores, and 4 at most.
    """
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Logs are JSON lines on standard error."""
    service_commit: str | None = None
    """Shown in `/health` as `commit`; the images set it."""
    api_docs: bool = False
    """1 serves `/openapi.json` and `/docs`, a page that shows it and signs requests; `make run` sets it."""

    embedding_hmac_secret: SecretStr | None = None
    """The secret that is shared with the clients; without it the service does not start."""
    embedding_hmac_secret_previous: SecretStr | None = None
    """Accepted as well, while the secret is rotated."""
    embedding_hmac_clients: NamedSecrets = {}
    """`name:secret` of further clients that sign, comma-separated; each shows by its name in log and metrics."""
    api_keys: NamedSecrets = {}
    """`name:key` of those who may ask `/v1/embeddings` with a bearer key, comma-separated. Unset, there is no such
    path.
    """
    allow_insecure_auth: bool = False
    """1 starts without a secret and verifies nothing; never in production."""
    auth_time_window_seconds: Positive = 120
    """How old, or how far in the future, a signature may be. Where it is set it bounds jobs, too."""

    max_body_bytes: Literal["auto"] | Positive = "auto"
    """One request body. `auto` is what the largest batch needs, of images as base64 or of texts, and not more than
    MAX_IMAGE_BYTES_IN_FLIGHT.
    """
    max_batch_size: Positive = IMAGES_PER_BATCH
    """Images in one request."""
    max_text_batch_size: Positive = TEXTS_PER_BATCH
    """Texts in one request."""
    max_image_size_bytes: Positive = 10_485_760
    """One image, as downloaded or sent."""
    max_image_pixels: Positive = 50_000_000
    """One image, width times height."""
    image_download_timeout_s: Seconds = 30.0
    """One download, from the name's lookup to the last byte."""
    download_concurrency: Positive = 8
    """Downloads of one request at once."""
    download_allow_hosts: str = ""
    """`host`, `host:port` or CIDR, comma-separated, that need not be public. Empty in production."""

    request_timeout_s: Seconds = 90.0
    """A whole request; `X-Request-Timeout-Ms`, or `timeout_ms` in a job's input, shortens it. The proxy in front of
    a pod cuts at 100 s.
    """
    drain_timeout_s: Positive = 30
    """After SIGTERM, for what was accepted; and for a client to take its answer."""
    max_concurrent_requests: Positive = 64
    """In all processes of the pod together; more are answered `OVERLOADED` at once. In a handler SERVERLESS_CONCURRENCY
    where that is more, unless this is set.
    """
    max_queued_items: Positive = 1024
    """Images and texts between admission and their vector, in each process; no batch may be larger. 16384 in a handler,
    which has taken its jobs already.
    """
    max_device_batch: Literal["auto"] | Positive = "auto"
    """Items in one forward pass. `auto` is 64 where every GPU has 40 GB or more, else 32."""

    rate_limit_items: str = ""
    """What one client may have embedded, such as `600/minute`; empty is off."""
    rate_limit_bytes: str = ""
    """The same in bytes: of texts, of URLs, and of images that are sent by content."""
    rate_limit_storage: Annotated[str, Field(repr=False)] = "memory://"
    """Where the counts are: `memory://`, for each process alone, or `redis://…`, which pods share."""
    rate_limit_when_away: Literal["open", "closed"] = "open"
    """While that Redis does not answer: `open` lets everybody in, `closed` nobody."""

    clip_model: str = DEFAULT_MODEL
    """Hub id or model directory; `/model` in the images, which is the one baked into them."""
    model_name: str | None = None
    """A hub id that counts where `CLIP_MODEL` is not set: what RunPod calls an endpoint's cached model."""
    clip_model_revision: str | None = None
    """Another revision of a hub model than the pinned one; without either it is `main`."""
    clip_device: str = "auto"
    """`auto` is every CUDA device, else the CPU; or `cpu`, `cuda`, `cuda:1`. GPU images set `cuda`: without a GPU
    they do not start.
    """
    clip_dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    """`auto` is float16 on CUDA; on a CPU bfloat16 if it has it, else float32; or int8, where it was baked within its
    bound and is faster.
    """
    clip_engine: Literal["auto", "torch", "openvino"] = "auto"
    """`auto` is `openvino` on a CPU where it is installed (extra `cpu`), else `torch`."""
    clip_cuda_graphs: bool = True
    """0 launches kernels one by one: a start is seconds shorter, small batches take longer."""
    clip_cache_dir: Path = Path("~/.cache/clip-embedding-service")
    """What OpenVINO has exported, unless that was baked, and compiled; the first start writes it."""

    image_processes: Literal["auto"] | Positive = "auto"
    """Processes of the pod that download and decode, shared out among WORKERS, at least one each; `auto` is one for
    each core.
    """
    max_decode_cpu_s: Seconds = 5.0
    """Of processor time, for one image. A photograph of 50 megapixels takes half a second."""
    max_decode_bytes: Positive = 805_306_368
    """Of memory, for decoding one image: what 50 megapixels need in every format."""
    max_image_bytes_in_flight: Positive = 536_870_912
    """What running requests hold of decoded images; as much again of downloaded ones, of those that were sent, and of
    bodies of more than a mebibyte. Shared out among WORKERS, to each at least what its largest request needs.
    """
    cache_bytes: Annotated[int, Field(ge=0)] = 67_108_864
    """Of vectors that each process keeps for when the same text or image comes again: some 25,000. 0 keeps none."""
    cache_url: Annotated[str, Field(repr=False)] = ""
    """A Redis or Valkey in which pods share those vectors, `redis://…`; empty is off. Give it a `maxmemory` and an
    eviction policy such as `allkeys-lru`. Who can write to it chooses vectors.
    """
    max_image_pass_ms: Positive = 300
    """On a CPU, while texts come: how long decoding and encoding images may keep the next text waiting."""
    watchdog_forward_s: Seconds = 30.0
    """A forward pass that takes longer ends the process, and a fresh one starts; pauses do not count."""
    watchdog_hub_s: Seconds = 20.0
    """The same for a thread of connections that gives no sign of life, and for a process that hangs."""

    @model_validator(mode="before")
    @classmethod
    def _named_model(cls, given: Any) -> Any:  # noqa: ANN401 - pydantic's own: whatever it is to validate
        """What MODEL_NAME stands for: one rule for all that reads `clip_model`."""
        if not isinstance(given, dict) or given.get("model_name") is None or "clip_model" in given:
            return given
        if not _HUB_ID.fullmatch(given["model_name"]):
            raise StartError("MODEL_NAME: must be a hub id (owner/name); a directory is for CLIP_MODEL to name")
        return {**given, "clip_model": given["model_name"]}

    @field_validator("log_level", "clip_dtype", "clip_engine", mode="before")
    @classmethod
    def _any_case(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        return value.upper() if info.field_name == "log_level" else value.lower()

    @field_validator("max_image_bytes_in_flight")
    @classmethod
    def _holds_an_image(cls, value: int, info: ValidationInfo) -> int:
        if value < 2 * info.data.get("max_image_size_bytes", 0):
            raise ValueError("must be at least twice MAX_IMAGE_SIZE_BYTES")
        return value

    @model_validator(mode="after")
    def _holds_a_body(self) -> Self:
        if self.max_body_bytes != "auto" and self.max_body_bytes > self.max_image_bytes_in_flight:
            # Not the model's own error: that has no variable to name.
            raise StartError("MAX_BODY_BYTES: must be at most MAX_IMAGE_BYTES_IN_FLIGHT")
        return self

    @field_validator("api_keys")
    @classmethod
    def _fit_into_a_header(cls, keys: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        for name, key in keys.items():
            if not key.get_secret_value().isascii():
                raise ValueError(f"the key of {name} must be ASCII: a header takes nothing else")
        return keys

    @model_validator(mode="after")
    def _tells_clients_apart(self) -> Self:
        for name, secret in self.hmac_clients().items():
            if secret in self.hmac_secrets():
                # Whoever signs with it would be counted, limited and logged as `default`.
                raise StartError(
                    f"EMBEDDING_HMAC_CLIENTS: {name} must have a secret of its own, and not that of"
                    " EMBEDDING_HMAC_SECRET or EMBEDDING_HMAC_SECRET_PREVIOUS"
                )
        return self

    @property
    def cache_folder(self) -> Path:
        """Where CLIP_CACHE_DIR is. Raises `StartError` where nobody has a home."""
        try:
            return self.clip_cache_dir.expanduser()
        except RuntimeError as error:
            message = f"CLIP_CACHE_DIR: nobody knows the home in {self.clip_cache_dir}: set HOME, or name a directory"
            raise StartError(message) from error

    @property
    def requests_limit(self) -> int:
        """Requests that hold a place at once."""
        return self.max_concurrent_requests

    @property
    def has_rate_limits(self) -> bool:
        """Whether anything is counted at all."""
        return bool(self.rate_limit_items or self.rate_limit_bytes)

    def hmac_secrets(self) -> list[str]:
        """The active secrets, the one to sign with first; empty only with `allow_insecure_auth`."""
        both = (self.embedding_hmac_secret, self.embedding_hmac_secret_previous)
        return [secret.get_secret_value() for secret in both if secret is not None]

    def hmac_clients(self) -> dict[str, str]:
        """The secrets of the other clients that sign, by name."""
        return {name: secret.get_secret_value() for name, secret in self.embedding_hmac_clients.items()}

    def bearer_keys(self) -> dict[str, str]:
        """The keys for `/v1/embeddings`, by name."""
        return {name: key.get_secret_value() for name, key in self.api_keys.items()}

    @property
    def verifies_signatures(self) -> bool:
        """False only with `allow_insecure_auth`."""
        return bool(self.hmac_secrets() or self.embedding_hmac_clients)


AnySettings = TypeVar("AnySettings", bound=ServiceSettings)


def load_settings(environ: Mapping[str, str]) -> ServiceSettings:
    """Read the service's settings from `environ`. Raises `StartError`, see `read_settings`."""
    return read_settings(ServiceSettings, environ)


def read_settings(model: type[AnySettings], environ: Mapping[str, str]) -> AnySettings:
    """Read the fields of `model` from `environ`; a variable that is set to nothing, or to blanks, counts as not set.

    Raises `StartError` with one line that names the variable and what was expected.
    """
    given = {name.lower(): value for name, value in environ.items() if value.strip()}
    given |= mounted(given)
    require_replaced(given)
    try:
        settings = model.model_validate(given)
    except ValidationError as error:
        raise StartError(_first_line(error)) from error
    _require_secret(settings)
    return settings


def _require_secret(settings: ServiceSettings) -> None:
    if settings.embedding_hmac_secret or settings.embedding_hmac_clients or settings.allow_insecure_auth:
        return
    raise StartError(
        "EMBEDDING_HMAC_SECRET is not set: set it to the secret that the clients sign with"
        " (or ALLOW_INSECURE_AUTH=1 to run without signatures, never in production)"
    )


def _first_line(error: ValidationError) -> str:
    """Name the variable and what was expected; the value stays out, it may be a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    variable = str(first["loc"][0]).upper() if first["loc"] else "settings"
    return f"{variable}: {first['msg']}"
