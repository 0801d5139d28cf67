"""A backend as the contract sees it: bodies go in signed, answers come out; only the envelope differs."""

import base64
import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import requests

from shared_auth import Authenticator, image_content_payload_id, image_payload_id, text_payload_id
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from tools.testbed.control_plane import ControlPlane
from tools.testbed.process import API_KEY, SECRET

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is the contract's success body, or its error object with `code` set."""

    body: Body

    @property
    def code(self) -> str | None:
        """The error code, or None for a success."""
        error = self.body.get("error")
        return error["code"] if error else None

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        return np.asarray(self.body["embedding"], dtype=np.float32)

    def vectors(self) -> Iterator[npt.NDArray[np.float32]]:
        """The vectors of a batch, its errors left out."""
        for result in self.body["results"]:
            if "embedding" in result:
                yield np.asarray(result["embedding"], dtype=np.float32)


class Target(Protocol):
    """One backend."""

    def send(self, path: str, body: Body) -> Answer:
        """Send a body as it is."""

    def ask_openai(self, path: str, body: Body) -> Answer:
        """Send a body as OpenAI's clients do, by somebody who is let in."""


@dataclass(frozen=True, slots=True)
class PodTarget:
    """The HTTP backend."""

    base_url: str

    def send(self, path: str, body: Body) -> Answer:
        return Answer(self.post(path, json.dumps(body).encode()).json())

    def ask_openai(self, path: str, body: Body) -> Answer:
        return Answer(self.post(path, json.dumps(body).encode(), {"Authorization": f"Bearer {API_KEY}"}).json())

    def post(self, path: str, data: bytes, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Send raw bytes and return the raw response."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        return requests.post(self.base_url + path, data=data, headers=headers, timeout=60)


@dataclass(frozen=True, slots=True)
class HandlerTarget:
    """The serverless backend, through the SDK's production loop."""

    plane: ControlPlane

    def send(self, path: str, body: Body) -> Answer:
        return self._run({"path": path, **body})

    def ask_openai(self, path: str, body: Body) -> Answer:
        return self._run({"openai_route": path, "openai_input": body})

    def _run(self, job_input: Body) -> Answer:
        status = self.plane.run(job_input)
        return Answer({"error": json.loads(status["error"])} if "error" in status else status["output"])


def signed_image(
    image_url: str,
    *,
    path: str = EMBED_IMAGE,
    secret: str = SECRET,
    age_s: int = 0,
    **fields: Any,  # noqa: ANN401
) -> Body:
    """An image request, or an item of a batch when `path` says so."""
    auth = _authenticator(secret, age_s).sign(path, image_payload_id(image_url)).as_dict()
    return {"image_url": image_url, "auth": auth, **fields}


def signed_content(
    data: bytes,
    *,
    path: str = EMBED_IMAGE,
    secret: str = SECRET,
    age_s: int = 0,
    **fields: Any,  # noqa: ANN401
) -> Body:
    """A request of an image by its bytes, or an item of a batch when `path` says so."""
    auth = _authenticator(secret, age_s).sign(path, image_content_payload_id(data)).as_dict()
    return {"image_b64": base64.b64encode(data).decode(), "auth": auth, **fields}


def signed_text(
    text: str,
    *,
    path: str = EMBED_TEXT,
    secret: str = SECRET,
    age_s: int = 0,
    **fields: Any,  # noqa: ANN401
) -> Body:
    """A text request, or an item of a batch when `path` says so."""
    auth = _authenticator(secret, age_s).sign(path, text_payload_id(text)).as_dict()
    return {"text": text, "auth": auth, **fields}


def signed_batch(image_urls: list[str], **fields: Any) -> Body:  # noqa: ANN401
    """A batch request whose items are called item-0, item-1, ..."""
    items = [
        signed_image(url, path=EMBED_IMAGE_BATCH, request_id=f"item-{position}")
        for position, url in enumerate(image_urls)
    ]
    return {"items": items, **fields}


def signed_texts(texts: Sequence[str], **fields: Any) -> Body:  # noqa: ANN401
    """A batch request whose items are called item-0, item-1, ..."""
    items = [
        signed_text(text, path=EMBED_TEXT_BATCH, request_id=f"item-{position}") for position, text in enumerate(texts)
    ]
    return {"items": items, **fields}


def without(body: Body, *names: str) -> Body:
    """A copy of `body` that lacks some members."""
    copied = copy.deepcopy(body)
    for name in names:
        del copied[name]
    return copied


def _authenticator(secret: str, age_s: int) -> Authenticator:
    return Authenticator([secret], clock=lambda: time.time() - age_s)
