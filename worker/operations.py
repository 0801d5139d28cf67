"""The three operations from the client's side: path, signed body, and how to read the answer.

A body is made for each attempt, because its signature carries the time of that attempt. One image is an operation of
one item: all of them are answered by one result per item.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from shared_auth import Authenticator, image_payload_id, text_payload_id
from worker.clock import Clock
from worker.outcomes import Outcome
from worker.responses import read_batch, read_single
from worker.settings import WorkerSettings
from worker.values import Body, ImageItem, Item, TextItem

EMBED_IMAGE = "/v1/embed/image"
EMBED_IMAGE_BATCH = "/v1/embed/image-batch"
EMBED_TEXT = "/v1/embed/text"

# Smaller than decimal digits, and exact.
_ENCODING: Body = {"encoding_format": "base64"}

Sign = Callable[[str, str], Body]
"""(path, payload id) -> the `auth` member, or nothing where requests are not signed."""


class Operation(Protocol):
    """Something to ask a backend about one item or more."""

    @property
    def path(self) -> str: ...

    @property
    def items(self) -> Sequence[Item]: ...

    def body(self, sign: Sign) -> Body:
        """Return the request body, signed now."""

    def read(self, answer: object, backend: str) -> list[Outcome]:
        """Check the answer and return one result per item, in order. Raises `WrongResponse`."""

    def only(self, positions: Sequence[int]) -> Self:
        """Return the same for some of the items, at least one."""


@dataclass(frozen=True, slots=True)
class EmbedImage:
    """One image."""

    item: ImageItem
    path: str = EMBED_IMAGE

    @property
    def items(self) -> Sequence[ImageItem]:
        return (self.item,)

    def body(self, sign: Sign) -> Body:
        return _image_members(self.item, self.path, sign) | _ENCODING

    def read(self, answer: object, backend: str) -> list[Outcome]:
        return [read_single(answer, self.item, backend)]

    def only(self, _positions: Sequence[int]) -> Self:
        return self


@dataclass(frozen=True, slots=True)
class EmbedImageBatch:
    """Several images."""

    items: Sequence[ImageItem]
    path: str = EMBED_IMAGE_BATCH

    def body(self, sign: Sign) -> Body:
        return {"items": [_image_members(item, self.path, sign) for item in self.items], **_ENCODING}

    def read(self, answer: object, backend: str) -> list[Outcome]:
        return read_batch(answer, self.items, backend)

    def only(self, positions: Sequence[int]) -> "EmbedImageBatch":
        return EmbedImageBatch([self.items[position] for position in positions], self.path)


@dataclass(frozen=True, slots=True)
class EmbedText:
    """One text."""

    item: TextItem
    path: str = EMBED_TEXT

    @property
    def items(self) -> Sequence[TextItem]:
        return (self.item,)

    def body(self, sign: Sign) -> Body:
        members = {"text": self.item.text, "request_id": self.item.request_id, "normalize": self.item.normalize}
        return members | sign(self.path, text_payload_id(self.item.text)) | _ENCODING

    def read(self, answer: object, backend: str) -> list[Outcome]:
        return [read_single(answer, self.item, backend)]

    def only(self, _positions: Sequence[int]) -> Self:
        return self


def signer(settings: WorkerSettings, clock: Clock) -> Sign:
    """Return what signs with the settings' secret, or signs nothing if there is none."""
    secret = settings.secret()
    if secret is None:
        return lambda _path, _payload_id: {}
    authenticator = Authenticator([secret], clock=clock.now)
    return lambda path, payload_id: {"auth": authenticator.sign(path, payload_id).as_dict()}


def _image_members(item: ImageItem, path: str, sign: Sign) -> Body:
    members = {"image_url": item.url, "request_id": item.request_id, "normalize": item.normalize}
    return members | sign(path, image_payload_id(item.url))
