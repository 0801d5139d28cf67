"""The old system's calls against the real pod and the real handler: the same dicts from both."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from clip_embedding_client import errors
from clip_embedding_client.legacy import LegacyClipClient, LegacyItem

from models.shapes import KINDS, draw, single
from tests.end_to_end.test_backends import TOLERANCE, client
from tools.testbed.control_plane import ControlPlane
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import PodProcess, ServiceProcess

MEMBERS = {
    "request_id",
    "embedding",
    "dim",
    "normalized",
    "truncated",
    "timings",
    "fingerprint",
    "model_name",
    "model",
    "backend",
}


@pytest.fixture(scope="module")
def clients(plane: ControlPlane, handler: ServiceProcess, pod: PodProcess) -> Iterator[list[LegacyClipClient]]:
    made = [LegacyClipClient(client(backend, plane, pod.base_url)) for backend in ("runpod_pod", "runpod_serverless")]
    yield made
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def url(images: ImageServer) -> str:
    return images.add("/legacy.png", encoded(draw(single(*KINDS[0]), 300), "PNG"))


def test_image_and_text(clients: list[LegacyClipClient], url: str) -> None:
    """Plain values that JSON takes, with the vector as a list, equal on both backends."""
    images = [one.embed_image_url(url, "scene-1") for one in clients]
    texts = [one.embed_text("a red circle", request_id="query-1", normalize=False) for one in clients]

    for results, request_id, normalized in ((images, "scene-1", True), (texts, "query-1", False)):
        assert [MEMBERS] * 2 == [set(json.loads(json.dumps(result))) for result in results]
        assert {(request_id, 512, normalized, "tiny-shapes", "tiny-shapes")} == {
            (one["request_id"], one["dim"], one["normalized"], one["model_name"], one["model"]) for one in results
        }
        assert 1 == len({one["fingerprint"] for one in results})
        first, second = (np.asarray(result["embedding"]) for result in results)
        assert TOLERANCE > np.linalg.norm(first - second) / np.linalg.norm(first)
    assert [True, True] == [one.health_check() for one in clients]


def test_batch(clients: list[LegacyClipClient], url: str, images: ImageServer) -> None:
    """One dict per item in order; a failed one has its error, in the wire's shape, where the vector would be."""
    given: list[LegacyItem] = [
        {"image_url": url, "request_id": "one"},
        (images.base_url + "/legacy-missing.png", "two"),
        (url, "three"),
    ]

    for one in clients:
        first, failed, last = one.embed_image_batch(given)

        assert ["one", "two", "three"] == [result["request_id"] for result in (first, failed, last)]
        assert [MEMBERS, {"request_id", "error"}, MEMBERS] == [set(result) for result in (first, failed, last)]
        assert first["embedding"] == pytest.approx(last["embedding"], abs=TOLERANCE)
        assert ("DOWNLOAD_ERROR", "two", False) == (
            failed["error"]["code"],
            failed["error"]["request_id"],
            failed["error"]["retryable"],
        )
        with pytest.raises(errors.DownloadFailed):
            one.embed_image_url(images.base_url + "/legacy-missing.png")
