"""What clients ask for: requests of the contract, signed when they are sent. Standard library and shared_auth only.

No two requests are the same (a number in the URL's query, other words), so that no cache answers for the model.
"""

import json
from dataclasses import dataclass
from typing import Any, Protocol

from shared_auth import Authenticator, image_payload_id, text_payload_id
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH

WORDS = (
    "red", "green", "small", "old", "quiet", "bright", "river", "mountain", "house", "horse", "street", "garden",
    "under", "over", "beside", "near", "woman", "child", "market", "window", "morning", "evening", "bridge", "table",
    "yellow", "blue", "wooden", "stone", "boat", "cloud", "tree", "field",
)  # fmt: skip
# 12 tokens, with start and end.
_WORDS_PER_TEXT = 10


@dataclass(frozen=True, slots=True)
class Request:
    """`vectors` is how many a good answer holds."""

    path: str
    body: bytes
    vectors: int


class Work(Protocol):
    """Makes the request of a number; the same for every process that has the same fields."""

    def request(self, number: int) -> Request: ...


@dataclass(frozen=True, slots=True)
class SingleImages:
    """One image per request."""

    urls: tuple[str, ...]
    secret: str

    def request(self, number: int) -> Request:
        item = _image(self.urls, number, EMBED_IMAGE, self.secret)
        return _request(EMBED_IMAGE, item, vectors=1)


@dataclass(frozen=True, slots=True)
class ImageBatches:
    """`size` images per request."""

    urls: tuple[str, ...]
    secret: str
    size: int = 16

    def request(self, number: int) -> Request:
        positions = range(number * self.size, (number + 1) * self.size)
        items = [_image(self.urls, position, EMBED_IMAGE_BATCH, self.secret) for position in positions]
        return _request(EMBED_IMAGE_BATCH, {"items": items}, vectors=self.size)


@dataclass(frozen=True, slots=True)
class Texts:
    """One text of common words per request, each of which is a token."""

    secret: str
    words: int = _WORDS_PER_TEXT

    def request(self, number: int) -> Request:
        return _request(EMBED_TEXT, _text(number, self.words, EMBED_TEXT, self.secret), vectors=1)


@dataclass(frozen=True, slots=True)
class TextBatches:
    """`size` such texts per request."""

    secret: str
    size: int = 256
    words: int = _WORDS_PER_TEXT

    def request(self, number: int) -> Request:
        positions = range(number * self.size, (number + 1) * self.size)
        items = [_text(position, self.words, EMBED_TEXT_BATCH, self.secret) for position in positions]
        return _request(EMBED_TEXT_BATCH, {"items": items}, vectors=self.size)


def text_of(number: int, words: int = _WORDS_PER_TEXT) -> str:
    """Words that spell the number: of four or more, no two numbers below a million have the same."""
    base = len(WORDS)
    return " ".join(WORDS[(number // base ** (place % 4) + 5 * place) % base] for place in range(words))


def _image(urls: tuple[str, ...], number: int, path: str, secret: str) -> dict[str, Any]:
    url = f"{urls[number % len(urls)]}?{number}"
    auth = Authenticator([secret]).sign(path, image_payload_id(url)).as_dict()
    return {"image_url": url, "request_id": str(number), "auth": auth}


def _text(number: int, words: int, path: str, secret: str) -> dict[str, Any]:
    text = text_of(number, words)
    auth = Authenticator([secret]).sign(path, text_payload_id(text)).as_dict()
    return {"text": text, "request_id": str(number), "auth": auth}


def _request(path: str, members: dict[str, Any], *, vectors: int) -> Request:
    return Request(path, json.dumps({**members, "encoding_format": "base64"}).encode(), vectors)
