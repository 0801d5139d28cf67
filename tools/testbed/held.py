"""A request that stays with the service."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from shared_auth.contract import EMBED_IMAGE
from tools.testbed.image_server import ImageServer
from tools.testbed.raw_http import connected, head
from tools.testbed.target import signed_image


@contextmanager
def held_image(base_url: str, images: ImageServer) -> Iterator[None]:
    """One image that the pod at `base_url` works on until the block ends: so long its server lets it wait."""
    url, gate = images.add_gated("/held.png", b"")
    data = json.dumps(signed_image(url)).encode()
    with connected(base_url) as client:
        client.sendall(head(EMBED_IMAGE, f"Content-Length: {len(data)}") + data)
        gate.wait_for_request()
        try:
            yield
        finally:
            gate.open()
