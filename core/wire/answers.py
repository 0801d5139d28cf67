"""What is answered, as models: for the API's description and for who checks an answer against it.

Nothing is built from these: `core.wire.responses` writes plain dicts, whose vectors need no validation. Tests hold real
answers against them. New members may come with any version, so a reader ignores what it does not know.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.errors import ServiceError
from core.wire.openai import EmbeddingsRequest, openai_error_body
from core.wire.requests import ImageBatchRequest, ImageRequest, Request, TextBatchRequest, TextRequest
from core.wire.responses import Body, error_body

Milliseconds = Annotated[float, Field(ge=0)]
Floats = Annotated[list[float], Field(description="Float32 numbers, one for each dimension.")]
Base64 = Annotated[
    str,
    Field(
        description="Little-endian float32 numbers, where `encoding_format` is `base64`.",
        json_schema_extra={"contentEncoding": "base64"},
    ),
]


def _not_always_there(schema: dict[str, Any]) -> None:
    """A member that is left out is no member with a default."""
    del schema["default"]


def _sometimes() -> Any:  # noqa: ANN401 - as pydantic's own Field, it stands for the member's value
    """For a member that is there only when there is something to say; never null on the wire."""
    return Field(default=None, json_schema_extra=_not_always_there)


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(strict=True, frozen=True, use_attribute_docstrings=True)


class ErrorDetails(Answer):
    """Why something was refused or failed."""

    code: str
    """Stable; a program decides by this one."""
    message: str
    """For people, and may change."""
    request_id: str
    """The caller's, or one that was made."""
    retryable: bool
    """Whether the same request can succeed later."""


class ErrorAnswer(Answer):
    """The one shape of every error, whatever its status."""

    error: ErrorDetails


class ImageTimings(Answer):
    """Milliseconds of an image's way."""

    download_ms: Milliseconds = _sometimes()
    """Not there for an image that was sent."""
    decode_ms: Milliseconds
    queue_ms: Milliseconds
    inference_ms: Milliseconds
    total_ms: Milliseconds


class TextTimings(Answer):
    """Milliseconds of a text's way."""

    download_ms: None
    """Null: older clients read it of every answer."""
    queue_ms: Milliseconds
    inference_ms: Milliseconds
    total_ms: Milliseconds


class ImageBatchTimings(Answer):
    """Milliseconds of a whole batch: of each step the longest of its items, which go side by side."""

    total_download_ms: Milliseconds = _sometimes()
    """Not there where every image was sent."""
    total_inference_ms: Milliseconds
    total_ms: Milliseconds


class TextBatchTimings(Answer):
    """Milliseconds of a whole batch: of each step the longest of its items, which go side by side."""

    total_inference_ms: Milliseconds
    total_ms: Milliseconds


class Origin(Answer):
    """Where vectors come from. Those of equal fingerprints can be compared."""

    model_name: str
    pretrained: str
    device: str
    fingerprint: str


class EmbeddedItem(Answer):
    """One vector."""

    request_id: str
    embedding: Floats | Base64
    dim: Annotated[int, Field(gt=0)]
    normalized: bool
    """Whether the vector has norm 1."""
    cached: Literal[True] = _sometimes()
    """It was not computed for this request."""


class EmbeddedImage(EmbeddedItem):
    """The vector of an image."""

    timings: ImageTimings


class EmbeddedText(EmbeddedItem):
    """The vector of a text."""

    timings: TextTimings
    truncated: Literal[True] = _sometimes()
    """Only there when the text had more tokens than the model takes."""


class FailedItem(Answer):
    """An item of a batch that has no vector; the others have theirs."""

    request_id: str
    error: ErrorDetails


class ImageAnswer(EmbeddedImage, Origin):
    """The vector of an image, and where it comes from."""


class TextAnswer(EmbeddedText, Origin):
    """The vector of a text, and where it comes from."""


class ImageBatchAnswer(Origin):
    """A vector or an error for each image, in the order of the request."""

    results: list[EmbeddedImage | FailedItem]
    batch_timings: ImageBatchTimings


class TextBatchAnswer(Origin):
    """A vector or an error for each text, in the order of the request."""

    results: list[EmbeddedText | FailedItem]
    batch_timings: TextBatchTimings


class OpenAIErrorDetails(Answer):
    """Why something was refused or failed."""

    message: str
    """For people, and may change."""
    type: str
    param: str | None
    """The member of the request that is at fault, where that is known."""
    code: str
    """Stable; a program decides by this one."""


class OpenAIErrorAnswer(Answer):
    """An error as OpenAI's clients read it."""

    error: OpenAIErrorDetails


class EmbeddingDatum(Answer):
    """The vector of one input; its norm is 1."""

    object: Literal["embedding"]
    index: int
    """Of the input."""
    embedding: Floats | Base64


class FailedDatum(Answer):
    """An input that has no vector, where `partial` was asked for."""

    object: Literal["error"]
    index: int
    """Of the input."""
    embedding: None
    error: OpenAIErrorDetails


class Usage(Answer):
    """Tokens of the texts; images count none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    """The vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingDatum | FailedDatum]
    model: str
    usage: Usage
    fingerprint: str
    """Vectors of equal fingerprints can be compared."""


class ModelDatum(Answer):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsAnswer(Answer):
    """The one model."""

    object: Literal["list"]
    data: list[ModelDatum]


StatusWord = Literal["ok", "loading", "draining", "unhealthy"]


class StatusAnswer(Answer):
    """How the service is."""

    status: StatusWord


class HealthAnswer(StatusAnswer):
    """How the service is, and what it runs; what is not known before the model is loaded is null."""

    model_name: str | None
    pretrained: str | None
    device: str | None
    dtype: str | None
    engine: str | None
    dim: int | None
    fingerprint: str | None
    torch_version: str | None
    cuda_version: str | None
    uptime_seconds: float
    version: str
    commit: str | None
    insecure_auth: bool
    """Whether signatures are not verified."""


class Links(Answer):
    """Paths of what there is beside the operations; those of the description only where it is served."""

    health: str
    openapi: str = _sometimes()
    docs: str = _sometimes()


class IndexAnswer(Answer):
    """What this is."""

    name: str
    version: str
    links: Links


ANSWERS: Mapping[type[Request], type[Answer]] = {
    ImageRequest: ImageAnswer,
    ImageBatchRequest: ImageBatchAnswer,
    TextRequest: TextAnswer,
    TextBatchRequest: TextBatchAnswer,
    EmbeddingsRequest: EmbeddingsAnswer,
}

ERRORS: Mapping[Callable[[ServiceError, str], Body], type[Answer]] = {
    error_body: ErrorAnswer,
    openai_error_body: OpenAIErrorAnswer,
}
