"""The service's settings: read from the environment once, at an entry point, into a frozen object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from core.errors import StartError

DEFAULT_MODEL = "openai/clip-vit-base-patch32"

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServiceSettings(BaseModel):
    """One field per environment variable, of the same name in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Positive = 1
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Set when an image is built, shown in /health.
    service_commit: str | None = None

    embedding_hmac_secret: SecretStr | None = None
    embedding_hmac_secret_previous: SecretStr | None = None
    allow_insecure_auth: bool = False
    auth_time_window_seconds: Positive = 120

    # 16 items of 4,096 URL characters, each escaped as six bytes of JSON, fit into 512 KiB.
    max_body_bytes: Positive = 1_048_576
    max_batch_size: Positive = 16
    max_image_size_bytes: Positive = 10_485_760
    max_image_pixels: Positive = 50_000_000
    image_download_timeout_s: Seconds = 30.0
    download_concurrency: Positive = 8
    download_allow_hosts: str = ""

    # The proxy in front of a pod cuts at 100 s: the service answers before that.
    request_timeout_s: Seconds = 90.0
    drain_timeout_s: Positive = 30
    max_concurrent_requests: Positive = 64
    max_queued_items: Positive = 1024
    max_device_batch: Positive = 32

    clip_model: str = DEFAULT_MODEL
    clip_model_revision: str | None = None
    clip_device: str = "auto"
    clip_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    clip_engine: Literal["auto", "torch", "openvino"] = "auto"
    # Off, each pass launches its kernels one by one: a start is seconds shorter, and small batches take longer.
    clip_cuda_graphs: bool = True
    clip_cache_dir: Path = Path("~/.cache/clip-embedding-service")

    # How many processes download and decode: by default one for each core.
    image_processes: Literal["auto"] | Positive = "auto"
    # Of processor time, for one image. A photograph of 50 megapixels takes half a second.
    max_decode_cpu_s: Seconds = 5.0
    # Of one image, while it is decoded: what 50 megapixels need in every usual format.
    max_decode_bytes: Positive = 805_306_368
    # What running requests hold of decoded images, and as much again of downloaded ones.
    max_image_bytes_in_flight: Positive = 536_870_912
    # On a CPU, while texts come: how long decoding and encoding images may keep the next text waiting.
    max_image_pass_ms: Positive = 250
    # Longer than any right forward pass; with the start of a fresh process, still under a minute.
    watchdog_forward_s: Seconds = 30.0
    # The thread that holds the connections never works for longer than milliseconds.
    watchdog_hub_s: Seconds = 20.0

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

    def hmac_secrets(self) -> list[str]:
        """The active secrets, the one to sign with first; empty only with `allow_insecure_auth`."""
        both = (self.embedding_hmac_secret, self.embedding_hmac_secret_previous)
        return [secret.get_secret_value() for secret in both if secret is not None]


AnySettings = TypeVar("AnySettings", bound=ServiceSettings)


def load_settings(environ: Mapping[str, str]) -> ServiceSettings:
    """Read the service's settings from `environ`. Raises `StartError`, see `read_settings`."""
    return read_settings(ServiceSettings, environ)


def read_settings(model: type[AnySettings], environ: Mapping[str, str]) -> AnySettings:
    """Read the fields of `model` from `environ`; a variable that is set to nothing counts as not set.

    Raises `StartError` with one line that names the variable and what was expected.
    """
    given = {name.lower(): value for name, value in environ.items() if value != ""}
    try:
        settings = model.model_validate(given)
    except ValidationError as error:
        raise StartError(_first_line(error)) from error
    _require_secret(settings)
    return settings


def _require_secret(settings: ServiceSettings) -> None:
    if settings.embedding_hmac_secret is not None or settings.allow_insecure_auth:
        return
    raise StartError(
        "EMBEDDING_HMAC_SECRET is not set: set it to the secret that the workers sign with"
        " (or ALLOW_INSECURE_AUTH=1 to run without signatures, never in production)"
    )


def _first_line(error: ValidationError) -> str:
    """Name the variable and what was expected; the value stays out, it may be a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    variable = str(first["loc"][0]).upper() if first["loc"] else "settings"
    return f"{variable}: {first['msg']}"
