"""The client over every backend for real: one pod, one handler under the SDK's loop, one core in this process."""

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from clip_embedding_client import ClientSettings, ClipClient, Embedding
from clip_embedding_client.errors import ClipClientError

from models.shapes import KINDS, draw, single
from tools.testbed.control_plane import API_KEY, ENDPOINT_ID, ControlPlane
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import PodProcess, ServiceProcess, environment, pod_process

BACKENDS = ["runpod_pod", "runpod_serverless", "local"]
TEXTS = ["a red circle", "a blue square and a green triangle", "yellow"]
# float32 everywhere: batches of different sizes add in a different order, nothing else differs.
TOLERANCE = 1e-4


def client(backend: str, plane: ControlPlane, pod_url: str, **settings: str) -> ClipClient:
    environ = {
        **environment(),
        "CLIP_INFERENCE_BACKEND": backend,
        "CLIP_POD_BASE_URL": pod_url,
        "RUNPOD_BASE_URL": plane.base_url,
        "RUNPOD_API_KEY": API_KEY,
        "RUNPOD_CLIP_ENDPOINT_ID": ENDPOINT_ID,
        **settings,
    }
    return ClipClient(ClientSettings.from_environ(environ))


@pytest.fixture(scope="module")
def clients(plane: ControlPlane, handler: ServiceProcess, pod: PodProcess) -> Iterator[dict[str, ClipClient]]:
    made = {backend: client(backend, plane, pod.base_url) for backend in BACKENDS}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture(scope="module")
def urls(images: ImageServer) -> list[str]:
    """Ten drawings."""
    return [
        images.add(f"/backends/{number}.png", encoded(draw(single(*kind), 300), "PNG"))
        for number, kind in enumerate(KINDS[:10])
    ]


def rows(results: list[Embedding | ClipClientError]) -> npt.NDArray[np.float32]:
    return np.stack([result.vector for result in results if isinstance(result, Embedding)])


def test_backends_give_the_same_vectors(clients: dict[str, ClipClient], urls: list[str]) -> None:
    """Ten images and three texts agree on all three backends, and so do their fingerprints."""
    images = {name: rows(one.embed_images(urls)) for name, one in clients.items()}
    texts = {name: rows([one.embed_text(text) for text in TEXTS]) for name, one in clients.items()}
    fingerprints = {one.embed_text("x").fingerprint for one in clients.values()}

    assert {(10, 512)} == {vectors.shape for vectors in images.values()}
    for name in BACKENDS[1:]:
        assert TOLERANCE > np.linalg.norm(images[name] - images["runpod_pod"], axis=1).max()
        assert TOLERANCE > np.linalg.norm(texts[name] - texts["runpod_pod"], axis=1).max()
    assert 1 == len(fingerprints)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param("/missing.png", "DOWNLOAD_ERROR", id="404"),
        pytest.param("/broken.png", "INVALID_IMAGE", id="broken image"),
    ],
)
def test_backends_give_the_same_errors(
    clients: dict[str, ClipClient], images: ImageServer, path: str, code: str
) -> None:
    """The same mishap has the same code everywhere, alone and in a batch."""
    images.add("/broken.png", b"\xff\xd8\xff\xe0 not really a JPEG")

    codes = set()
    for one in clients.values():
        with pytest.raises(ClipClientError) as caught:
            one.embed_image(images.base_url + path)
        [result] = one.embed_images([images.base_url + path])
        assert isinstance(result, ClipClientError)
        codes |= {caught.value.code, result.code}

    assert {code} == codes


def test_refused_address_is_the_same_everywhere(clients: dict[str, ClipClient]) -> None:
    """The metadata address is refused by each backend."""
    codes = [result.code for one in clients.values() for result in one.embed_images(["http://169.254.169.254/"])]  # type: ignore[union-attr]

    assert ["URL_NOT_ALLOWED"] * 3 == codes


def without_query(url: str) -> str:
    return url.partition("?")[0]


def test_pod_dies_in_the_middle_and_comes_back(
    plane: ControlPlane, handler: ServiceProcess, urls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of 200 images all arrive once and in order, through the fallback; the pod is used again when it is back."""
    caplog.set_level(logging.WARNING, logger="clip_embedding_client")
    wanted = [f"{urls[number % len(urls)]}?{number}" for number in range(200)]
    settings = {
        "CLIP_FALLBACK_BACKEND": "runpod_serverless",
        "CLIP_RETRY_ATTEMPTS": "2",
        "CLIP_BREAKER_FAILURES": "1",
        "CLIP_BREAKER_COOL_DOWN_S": "1",
        # Of so small ones not all are on their way, or done, when the pod is killed.
        "CLIP_BATCH_SIZE": "4",
    }
    with pod_process() as first_pod:
        port = first_pod.base_url.rpartition(":")[2]
        one = client("runpod_pod", plane, first_pod.base_url, **settings)

        def kill_once(done: int, _total: int | None) -> None:
            if done >= 48 and first_pod.process.poll() is None:
                first_pod.kill()

        results = one.embed_images(wanted, on_progress=kill_once)
    by_url = {url: one.embed_image(url).vector for url in urls}
    with pod_process({"PORT": port}):
        backends = [one.embed_text("x").backend for _ in range(200)]
    one.close()

    assert 200 == len(rows(results))
    assert len({result.request_id for result in results if isinstance(result, Embedding)}) == 200
    assert all(
        TOLERANCE > np.linalg.norm(row - by_url[url.partition("?")[0]])
        for row, url in zip(rows(results), wanted, strict=True)
    )
    assert {"runpod_pod", "runpod_serverless"} == {
        result.backend for result in results if isinstance(result, Embedding)
    }
    assert "runpod_pod" == backends[-1]
    switches = [record for record in caplog.records if record.message == "the backend was switched"]
    assert 2 == len(switches)
