"""What goes into the client and what comes out of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from clip_embedding_client.errors import ClipClientError, ValidationFailed
from clip_embedding_client.signing.contract import MAX_REQUEST_ID_CHARACTERS, MAX_TEXT_CHARACTERS

if TYPE_CHECKING:

    class PilImage(Protocol):
        """What PIL's images are to type checkers. Its own name would be Any where Pillow is not installed, and with it
        whatever is given as an image."""

        @property
        def mode(self) -> str: ...

        def save(self, fp: Any, format: str | None = None, **params: Any) -> None: ...  # noqa: A002, ANN401 - PIL's

    # A string is always a URL, which the service downloads; a file of this machine is named by a path.
    ImageSource = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO | PilImage

Vector = npt.NDArray[np.float32]
Body = dict[str, Any]

Given = TypeVar("Given")


def new_request_id() -> str:
    """Return 32 random hex digits."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image to embed: its URL, which is sent and signed as it stands; or a path, bytes, an open binary file or a
    PIL image, which are sent themselves.

    `normalize` asks for L2 norm 1.
    """

    image: ImageSource
    request_id: str = field(default_factory=new_request_id)
    normalize: bool = True


@dataclass(frozen=True, slots=True)
class TextItem:
    """One text to embed."""

    text: str
    request_id: str = field(default_factory=new_request_id)
    normalize: bool = True

    def check(self) -> None:
        """Raise `ValidationFailed` for what the service is sure to refuse."""
        if not isinstance(self.text, str):
            raise ValidationFailed(f"the text is {type(self.text).__name__}, not a string")
        check_item(self.request_id, normalize=self.normalize)
        check_text("the text", self.text, MAX_TEXT_CHARACTERS, self.request_id)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A float32 (dim,) vector, and where it comes from.

    `timings` are the service's milliseconds, of the steps that it took for this answer; `truncated` says that a text
    was longer than the model reads; `cached`, that the service had the vector already; `backend` is the name of the
    backend that answered; `model_name` and `device` are None if it did not say.
    """

    vector: Vector
    request_id: str
    fingerprint: str
    normalized: bool
    timings: Mapping[str, float]
    truncated: bool
    cached: bool
    backend: str
    model_name: str | None = None
    device: str | None = None


Outcome = Embedding | ClipClientError


@dataclass(frozen=True, slots=True)
class Health:
    """What a backend says about itself; members that it does not know yet (while loading) are None.

    `status` is ok, loading, draining or unhealthy; `body` is everything it said.
    """

    backend: str
    status: str
    fingerprint: str | None
    dim: int | None
    model_name: str | None
    device: str | None
    insecure_auth: bool
    body: Mapping[str, Any]

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.status == "ok"


def check_item(request_id: str, *, normalize: bool) -> None:
    """Raise `ValidationFailed` for what would have the service refuse the whole batch that the item is in."""
    check_request_id(request_id)
    if not isinstance(normalize, bool):
        # NumPy's own is none that JSON has.
        raise ValidationFailed(
            f"normalize must be True or False, not {type(normalize).__name__}", request_id=request_id
        )


def check_request_id(request_id: str) -> None:
    """Raise `ValidationFailed` unless it is 1-128 printable characters."""
    if (
        not isinstance(request_id, str)
        or not 1 <= len(request_id) <= MAX_REQUEST_ID_CHARACTERS
        or not request_id.isprintable()
    ):
        raise ValidationFailed(f"request_id must be 1 to {MAX_REQUEST_ID_CHARACTERS} printable characters")


def check_text(name: str, value: str, max_characters: int, request_id: str) -> None:
    """Raise `ValidationFailed` for a string that is empty, too long or not valid Unicode."""
    if not 1 <= len(value) <= max_characters:
        raise ValidationFailed(f"{name} must have 1 to {max_characters:,} characters", request_id=request_id)
    # A lone surrogate cannot be written as UTF-8, so it can be neither signed nor sent.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValidationFailed(f"{name} is not valid Unicode", request_id=request_id)


def image_item(image: ImageSource | ImageItem) -> ImageItem:
    """Return the item of whatever stands for one."""
    return image if isinstance(image, ImageItem) else ImageItem(image)


def text_item(text: str | TextItem) -> TextItem:
    """Return the item of whatever stands for one."""
    return text if isinstance(text, TextItem) else TextItem(text)


def several(given: Given) -> Given:
    """Return it. Raises `TypeError` for a single string or bytes, whose characters nobody means."""
    if isinstance(given, (str, bytes, bytearray, memoryview)):
        raise TypeError("expected several images or texts: put a single one into a list")
    return given
