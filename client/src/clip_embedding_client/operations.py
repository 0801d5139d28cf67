"""The four operations from the client's side: path, signed body, and how to read the answer.

A body is made for each attempt, because its signature carries the time of that attempt. One image is an operation of
one item: all of them are answered by one result per item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from clip_embedding_client.images import LoadedImage
from clip_embedding_client.responses import read_batch, read_single
from clip_embedding_client.signing import Authenticator, text_payload_id
from clip_embedding_client.signing.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from clip_embedding_client.values import Body, Outcome, TextItem

# Smaller than decimal digits, and exact.
_ENCODING: Body = {"encoding_format": "base64"}

Sign = Callable[[str, str], Body]
"""(path, payload id) -> the `auth` member, or nothing where requests are not signed."""

Sendable = TypeVar("Sendable", bound=LoadedImage | TextItem)


class Operation(Protocol):
    """Something to ask a backend about one item or more."""

    @property
    def path(self) -> str: ...

    @property
    def request_ids(self) -> Sequence[str]: ...

    def body(self, sign: Sign) -> Body:
        """Return the request body, signed now."""

    def read(self, answer: object, backend: str) -> list[Outcome]:
        """Check the answer and return one result per item, in order. Raises `WrongResponse`."""

    def only(self, positions: Sequence[int]) -> Operation:
        """Return the same for some of the items, at least one."""


@dataclass(frozen=True, slots=True)
class Single(Generic[Sendable]):
    """One image or text."""

    item: Sendable

    @property
    def path(self) -> str:
        return EMBED_IMAGE if isinstance(self.item, LoadedImage) else EMBED_TEXT

    @property
    def request_ids(self) -> Sequence[str]:
        return (self.item.request_id,)

    def body(self, sign: Sign) -> Body:
        return _members(self.item, self.path, sign) | _ENCODING

    def read(self, answer: object, backend: str) -> list[Outcome]:
        return [read_single(answer, self.item, backend)]

    def only(self, positions: Sequence[int]) -> Operation:
        return self


@dataclass(frozen=True, slots=True)
class Batch(Generic[Sendable]):
    """Several images, or several texts."""

    items: Sequence[Sendable]

    @property
    def path(self) -> str:
        return EMBED_IMAGE_BATCH if isinstance(self.items[0], LoadedImage) else EMBED_TEXT_BATCH

    @property
    def request_ids(self) -> Sequence[str]:
        return [item.request_id for item in self.items]

    def body(self, sign: Sign) -> Body:
        return {"items": [_members(item, self.path, sign) for item in self.items], **_ENCODING}

    def read(self, answer: object, backend: str) -> list[Outcome]:
        return read_batch(answer, self.items, backend)

    def only(self, positions: Sequence[int]) -> Operation:
        return Batch([self.items[position] for position in positions])


def signer(secret: str | None, now: Callable[[], float]) -> Sign:
    """Return what signs with `secret`, or signs nothing if there is none."""
    if secret is None:
        return lambda _path, _payload_id: {}
    authenticator = Authenticator([secret], clock=now)
    return lambda path, payload_id: {"auth": authenticator.sign(path, payload_id).as_dict()}


def payload_id(item: LoadedImage | TextItem) -> str:
    """What is signed of an item."""
    return item.payload_id if isinstance(item, LoadedImage) else text_payload_id(item.text)


def _members(item: LoadedImage | TextItem, path: str, sign: Sign) -> Body:
    members: Body = {"request_id": item.request_id, "normalize": item.normalize}
    return _payload(item) | members | sign(path, payload_id(item))


def _payload(item: LoadedImage | TextItem) -> Body:
    if isinstance(item, TextItem):
        return {"text": item.text}
    return {"image_url": item.url} if item.base64 is None else {"image_b64": item.base64}
