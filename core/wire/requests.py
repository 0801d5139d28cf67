"""The requests of the wire contract, as strict models. What each one signs is said here too."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from core.errors import ValidationFailed
from core.images.content import SentImage, SentImages
from core.wire.long_strings import LongString
from shared_auth import image_payload_id, text_payload_id
from shared_auth.contract import MAX_REQUEST_ID_CHARACTERS, MAX_TEXT_CHARACTERS, MAX_URL_CHARACTERS

EncodingFormat = Literal["float", "base64"]


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable characters")
    return value


RequestId = Annotated[str, Field(min_length=1, max_length=MAX_REQUEST_ID_CHARACTERS), AfterValidator(_printable)]


def _text_of_at_most(characters: int) -> BeforeValidator:
    """A string that is kept out of the parser is as wrong as any that is too long, and is told so."""

    def checked(value: object) -> object:
        if isinstance(value, LongString):
            raise PydanticKnownError("string_too_long", {"max_length": characters})
        return value

    return BeforeValidator(checked)


def _decoded(value: object, info: ValidationInfo) -> SentImage:
    if not isinstance(value, str | LongString):
        raise PydanticCustomError("base64", "Input should be a string of base64")
    return cast("SentImages", info.context).take(value)


ImageUrl = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS), _text_of_at_most(MAX_URL_CHARACTERS)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS), _text_of_at_most(MAX_TEXT_CHARACTERS)]
ImageBase64 = Annotated[
    InstanceOf[SentImage],
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "minLength": 1, "contentEncoding": "base64"}),
]


class Request(BaseModel):
    """Base of all requests. Strict: no string becomes a number. Unknown fields are ignored: versions overlap."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    def signed_payloads(self) -> Iterator[tuple[str, object]]:
        """Yield (payload id, the caller's `auth` value) for everything that must be signed.

        Raises `shared_auth.UnsignablePayload` for a payload that is not valid Unicode.
        """
        raise NotImplementedError

    def measure(self) -> tuple[int, int]:
        """Return how many items are to be embedded, and the bytes of what was sent of them: texts, URLs, files."""
        raise NotImplementedError


class ImageRequest(Request):
    """One image, by its URL or by its bytes. `image_url` stays the exact string: the signature covers it as sent."""

    # Before the URL, whose validator looks at both.
    image_b64: ImageBase64 | None = None
    image_url: Annotated[ImageUrl | None, Field(validate_default=True)] = None
    request_id: RequestId | None = None
    normalize: bool = True
    encoding_format: EncodingFormat | None = None
    auth: Any = None

    @field_validator("image_url")
    @classmethod
    def _one_of_both(cls, image_url: str | None, info: ValidationInfo) -> str | None:
        given = [image_url, info.data.get("image_b64")]
        if given.count(None) != 1:
            raise PydanticCustomError("one_of_both", "Exactly one of image_url and image_b64 is required")
        return image_url

    @property
    def image(self) -> str | SentImage:
        """The URL, or what came in its place."""
        return self.image_b64 if self.image_b64 is not None else cast("str", self.image_url)

    def signed_payloads(self) -> Iterator[tuple[str, object]]:
        """What is no base64 has no bytes that anybody could have signed. It is that image's error, and nothing is done
        for it.
        """
        if isinstance(self.image, str):
            yield image_payload_id(self.image), self.auth
        elif self.image.payload_id is not None:
            yield self.image.payload_id, self.auth

    def measure(self) -> tuple[int, int]:
        return 1, len(self.image.encode()) if isinstance(self.image, str) else self.image.size


class ImageItem(ImageRequest):
    """One image of a batch; its results are told apart by `request_id`, so that is required."""

    request_id: RequestId


class ImageBatchRequest(Request):
    """Several images. `encoding_format` is the default of the items that name none."""

    items: Annotated[list[ImageItem], Field(min_length=1)]
    encoding_format: EncodingFormat | None = None

    def signed_payloads(self) -> Iterator[tuple[str, object]]:
        for item in self.items:
            yield from item.signed_payloads()

    def measure(self) -> tuple[int, int]:
        return measure_all(self.items)


class TextRequest(Request):
    """One text."""

    text: Text
    request_id: RequestId | None = None
    normalize: bool = True
    encoding_format: EncodingFormat | None = None
    auth: Any = None

    def signed_payloads(self) -> Iterator[tuple[str, object]]:
        yield text_payload_id(self.text), self.auth

    def measure(self) -> tuple[int, int]:
        return 1, len(self.text.encode())


class TextItem(TextRequest):
    """One text of a batch; its results are told apart by `request_id`, so that is required."""

    request_id: RequestId


class TextBatchRequest(Request):
    """Several texts. `encoding_format` is the default of the items that name none."""

    items: Annotated[list[TextItem], Field(min_length=1)]
    encoding_format: EncodingFormat | None = None

    def signed_payloads(self) -> Iterator[tuple[str, object]]:
        for item in self.items:
            yield from item.signed_payloads()

    def measure(self) -> tuple[int, int]:
        return measure_all(self.items)


AnyRequest = TypeVar("AnyRequest", bound=Request)


def measure_all(requests: Iterable[Request]) -> tuple[int, int]:
    """The sums over `requests`, see `Request.measure`."""
    measured = [request.measure() for request in requests]
    return sum(items for items, _ in measured), sum(bytes_ for _, bytes_ in measured)


def validate(model: type[AnyRequest], members: Mapping[str, Any], images: SentImages) -> AnyRequest:
    """Check `members` against `model`; `images` takes what was sent as base64.

    Raises `ValidationFailed` with a message that names the field, and `Overloaded` when there is no room for an image.
    """
    try:
        return model.model_validate(members, context=images)
    except ValidationError as error:
        raise _explained(error) from error


def request_id_of(members: Mapping[str, Any]) -> str:
    """Return the caller's request id if it is a valid one, else a new one."""
    given = members.get("request_id")
    if isinstance(given, str) and 1 <= len(given) <= MAX_REQUEST_ID_CHARACTERS and given.isprintable():
        return given
    return new_request_id()


def new_request_id() -> str:
    """Return 32 random hex digits."""
    return os.urandom(16).hex()


def _explained(error: ValidationError) -> ValidationFailed:
    """Name the first wrong field and the rule. Never the value: it may be a presigned URL."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = _field_path(first["loc"])
    failed = ValidationFailed(f"{field}: {first['msg']}")
    failed.param = field
    return failed


def _field_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path
