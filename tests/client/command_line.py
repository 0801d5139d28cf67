"""What the tests of the command line share: the process, its environment, a service that refuses, and rows."""

import os
import sys

import numpy as np
from clip_embedding_client import Embedding
from clip_embedding_client.commands.inputs import Input
from clip_embedding_client.commands.rows import Row, row_of

from tests.client.scripted import FINGERPRINT, SECRET, Body, Reply, Script, Seen, item_error, json_reply, success

COMMAND = [sys.executable, "-m", "clip_embedding_client"]
# The process's own environment is settings only, so it is told where this one imports from.
PYTHONPATH = os.pathsep.join(filter(None, sys.path))


def environ(script: Script, **variables: str) -> dict[str, str]:
    """The settings of a pod that is the script, which is asked once."""
    given = {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": script.base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
        "CLIP_RETRY_ATTEMPTS": "1",
    }
    return given | variables


def refuses_marked(seen: Seen) -> Reply:
    """A pod to which every URL or text with an exclamation mark is a broken image."""
    body: Body = success(seen.body)
    if "items" in seen.body:
        body["results"] = [
            item_error(item, "INVALID_IMAGE", retryable=False) if "!" in _payload(item) else result
            for item, result in zip(seen.body["items"], body["results"], strict=True)
        ]
    return json_reply(body)


def _payload(item: Body) -> str:
    payload: str = item.get("image_url") or item.get("text") or ""
    return payload


def embedding(number: int, *, dim: int = 4) -> Embedding:
    """All of its numbers are `number`."""
    vector = np.full(dim, number, dtype=np.float32)
    return Embedding(vector, f"request-{number}", FINGERPRINT, False, {}, False, False, "runpod_pod")


def row(number: int) -> Row:
    """That of the text with that number."""
    return row_of(Input("text", f"text {number}", number), embedding(number))
