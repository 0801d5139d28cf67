"""What the client sends is what the shared vectors say, on every backend."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client.scripted import FakeBackend, FakeTime, client_of

VECTORS = json.loads((Path(__file__).parent.parent / "shared_auth" / "vectors.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in VECTORS])
def test_shared_vectors(vector: dict[str, Any]) -> None:
    """Secret, path, payload and time give the very signature that the service expects, and nothing is rewritten."""
    backend = FakeBackend()
    time = FakeTime(now_s=float(vector["ts"]))
    client = client_of([backend], time.clock(), EMBEDDING_HMAC_SECRET=vector["secret"])
    if "text" in vector:
        client.embed_text(vector["text"])
    elif vector["path"].endswith("-batch"):
        client.embed_images([vector["image_url"]])
    else:
        client.embed_image(vector["image_url"])

    [sent] = backend.calls
    item = sent["items"][0] if "items" in sent else sent
    assert vector["path"] == sent["path"]
    assert vector.get("image_url", vector.get("text")) == item.get("image_url", item.get("text"))
    assert {"ts": vector["ts"], "sig": vector["sig"]} == item["auth"]
