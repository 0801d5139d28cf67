"""`/v1/embeddings` as OpenAI's clients speak it: its request, its answer, its errors.

Source: the API reference of OpenAI, "Create embeddings" and "List models". Beyond it are images and `partial`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, TypeAdapter, ValidationInfo, WithJsonSchema

from core.embedding import Embedding
from core.errors import (
    AuthenticationError,
    CapacityError,
    ImageError,
    NotFound,
    RateLimited,
    RequestError,
    ServiceError,
    ValidationFailed,
)
from core.images.content import SentImage, SentImages
from core.wire.long_strings import LongString
from core.wire.requests import AnyRequest, EncodingFormat, ImageBase64, ImageUrl, Request, Text, measure_all, validate
from core.wire.responses import Body, ModelIdentity, encoded_vector

EMBEDDINGS = "/v1/embeddings"
MODELS = "/v1/models"

_DATA_URI = "data:"

# What OpenAI's clients go by is the status; people read `type` and `code`.
_TYPES: Sequence[tuple[type[ServiceError], str]] = (
    (RateLimited, "rate_limit_error"),
    (CapacityError, "server_error"),
    (RequestError, "invalid_request_error"),
    # The caller has chosen the image, and these are a 4xx.
    (ImageError, "invalid_request_error"),
)


class TextInput(Request):
    """A text among inputs of both kinds."""

    text: Text

    def measure(self) -> tuple[int, int]:
        return 1, len(self.text.encode())


class ImageUrlInput(Request):
    """An image by its address."""

    image_url: ImageUrl

    @property
    def image(self) -> str:
        return self.image_url

    def measure(self) -> tuple[int, int]:
        return 1, len(self.image_url.encode())


class ImageContentInput(Request):
    """An image by the base64 of its file."""

    image_b64: ImageBase64

    @property
    def image(self) -> SentImage:
        return self.image_b64

    def measure(self) -> tuple[int, int]:
        return 1, self.image_b64.size


Input = TextInput | ImageUrlInput | ImageContentInput

_KINDS: Mapping[str, type[Input]] = {
    "text": TextInput,
    "image_url": ImageUrlInput,
    "image_b64": ImageContentInput,
}
_SCHEMA = TypeAdapter(str | list[str] | list[Input]).json_schema()


def _inputs(given: object, info: ValidationInfo) -> list[Input]:
    """Each input as an object. Raises `ValidationFailed` that names the first wrong one in `param`."""
    are_images, images = info.data.get("modality") == "image", cast("SentImages", info.context)
    if isinstance(given, str | LongString):
        return [_of_string(given, "input", images, are_images=are_images)]
    if not isinstance(given, list) or not given:
        raise _wrong("input", "must be a string, or a list of strings or objects that is not empty")
    return [
        _of_string(one, f"input[{position}]", images, are_images=are_images)
        if isinstance(one, str | LongString)
        else _of_object(one, f"input[{position}]", images)
        for position, one in enumerate(given)
    ]


class EmbeddingsRequest(Request):
    """`input` is one text, or texts, or objects that say what they are; with `modality` image, strings are images.

    As an attribute it is a list of `Input`s.
    """

    modality: Literal["text", "image"] = "text"
    # Behind the modality, by which it is read.
    input: Annotated[Any, BeforeValidator(_inputs), WithJsonSchema(_SCHEMA)]
    model: str | None = None
    # LiteLLM writes null where its caller names none, lest OpenAI's own client put base64 there.
    encoding_format: EncodingFormat | None = "float"
    dimensions: int | None = None
    partial: bool = False

    @property
    def inputs(self) -> list[Input]:
        return cast("list[Input]", self.input)

    def measure(self) -> tuple[int, int]:
        return measure_all(self.inputs)


def embeddings_body(
    request: EmbeddingsRequest, results: Sequence[Embedding | ServiceError], identity: ModelIdentity
) -> Body:
    """The answer. Raises the first input's error, named in `param`, unless the request takes partial answers."""
    if not request.partial:
        for position, result in enumerate(results):
            if isinstance(result, ServiceError):
                result.param = f"input[{position}]"
                raise result
    tokens = sum(result.tokens for result in results if isinstance(result, Embedding))
    return {
        "object": "list",
        "data": [_datum(position, result, request) for position, result in enumerate(results)],
        "model": identity.model_name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "fingerprint": identity.fingerprint,
    }


def models_body(identity: ModelIdentity) -> Body:
    """The one model."""
    model = {"id": identity.model_name, "object": "model", "created": 0, "owned_by": identity.pretrained}
    return {"object": "list", "data": [model]}


def openai_error_body(error: ServiceError, _request_id: str | None = None) -> Body:
    """An error as OpenAI's clients read it; `code` is ours, but for what they know by another name."""
    return {
        "error": {
            "message": error.message,
            "type": next((name for kind, name in _TYPES if isinstance(error, kind)), "server_error"),
            "param": error.param,
            "code": "invalid_api_key" if isinstance(error, AuthenticationError) else error.code,
        }
    }


def check_model(request: EmbeddingsRequest, identity: ModelIdentity) -> None:
    """Refuse another model, or other dimensions, than is served. Raises `NotFound` or `ValidationFailed`."""
    if request.model not in (None, identity.model_name, identity.source):
        error = NotFound(f"this model is not served; served is {identity.model_name}")
        error.param = "model"
        raise error
    if request.dimensions not in (None, identity.dim):
        raise _wrong("dimensions", f"must be {identity.dim}, which is what the model has")


def _datum(position: int, result: Embedding | ServiceError, request: EmbeddingsRequest) -> Body:
    if isinstance(result, ServiceError):
        error = openai_error_body(result)["error"]
        return {"object": "error", "index": position, "embedding": None, "error": error}
    vector = encoded_vector(result.vector, request.encoding_format)
    return {"object": "embedding", "index": position, "embedding": vector}


def _of_object(one: object, name: str, images: SentImages) -> Input:
    if isinstance(one, int) or (isinstance(one, list) and one and isinstance(one[0], int)):
        # Some clients send those of another tokenizer.
        raise _wrong(name, "must be text and no token ids; in LangChain set check_embedding_ctx_length=False")
    kinds = [kind for kind in _KINDS if isinstance(one, Mapping) and kind in one]
    if not isinstance(one, Mapping) or len(kinds) != 1:
        raise _wrong(name, f"must be a string, or an object with one of {', '.join(_KINDS)}")
    return _validated(_KINDS[kinds[0]], one, name, images)


def _of_string(one: str | LongString, name: str, images: SentImages, *, are_images: bool) -> Input:
    if not are_images:
        return _validated(TextInput, {"text": one}, name, images)
    if one.startswith(_DATA_URI):
        return _validated(ImageContentInput, {"image_b64": _content_of(one, name)}, name, images)
    return _validated(ImageUrlInput, {"image_url": one}, name, images)


def _content_of(uri: str | LongString, name: str) -> str | LongString:
    """The base64 of `data:image/…;base64,…`."""
    head, comma, content = uri.partition(",")
    kind, *parameters = head.removeprefix(_DATA_URI).split(";")
    if not comma or not kind.startswith("image/") or parameters[-1:] != ["base64"]:
        raise _wrong(name, "must be an http(s) URL or data:image/...;base64,...")
    return content


def _validated(kind: type[AnyRequest], members: Mapping[str, Any], name: str, images: SentImages) -> AnyRequest:
    try:
        return validate(kind, members, images)
    except ValidationFailed as error:
        raise _wrong(name, error.message) from error


def _wrong(param: str, message: str) -> ValidationFailed:
    error = ValidationFailed(f"{param}: {message}")
    error.param = param
    return error
