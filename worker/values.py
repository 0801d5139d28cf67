"""What goes into the client and what comes out of it."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.errors import ValidationFailed

Vector = npt.NDArray[np.float32]
Body = dict[str, Any]

# The service's limits. Checked here too, because there one bad item refuses the whole batch.
MAX_URL_CHARACTERS = 4096
MAX_TEXT_CHARACTERS = 10_000
MAX_REQUEST_ID_CHARACTERS = 128


def new_request_id() -> str:
    """Return 32 random hex digits."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image to embed. `url` is sent and signed as it stands; `normalize` asks for L2 norm 1."""

    url: str
    request_id: str = field(default_factory=new_request_id)
    normalize: bool = True

    def check(self) -> None:
        """Raise `ValidationFailed` for what the service is sure to refuse."""
        _check_text("the image URL", self.url, MAX_URL_CHARACTERS, self.request_id)
        check_request_id(self.request_id)


@dataclass(frozen=True, slots=True)
class TextItem:
    """One text to embed."""

    text: str
    request_id: str = field(default_factory=new_request_id)
    normalize: bool = True

    def check(self) -> None:
        """Raise `ValidationFailed` for what the service is sure to refuse."""
        _check_text("the text", self.text, MAX_TEXT_CHARACTERS, self.request_id)
        check_request_id(self.request_id)


Item = ImageItem | TextItem


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A float32 (dim,) vector, and where it comes from.

    `timings` are the service's milliseconds, of the steps that it took for this answer; `truncated` says that a text
    was longer than the model reads; `backend` is the name of the backend that answered; `model_name` is None if it did
    not say.
    """

    vector: Vector
    request_id: str
    fingerprint: str
    normalized: bool
    timings: Mapping[str, float]
    truncated: bool
    backend: str
    model_name: str | None = None


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


def check_request_id(request_id: str) -> None:
    """Raise `ValidationFailed` unless it is 1-128 printable characters."""
    if not 1 <= len(request_id) <= MAX_REQUEST_ID_CHARACTERS or not request_id.isprintable():
        raise ValidationFailed(f"request_id must be 1 to {MAX_REQUEST_ID_CHARACTERS} printable characters")


def _check_text(name: str, value: str, max_characters: int, request_id: str) -> None:
    if not 1 <= len(value) <= max_characters:
        raise ValidationFailed(f"{name} must have 1 to {max_characters:,} characters", request_id=request_id)
    # A lone surrogate cannot be written as UTF-8, so it can be neither signed nor sent.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValidationFailed(f"{name} is not valid Unicode", request_id=request_id)
