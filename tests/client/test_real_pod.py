"""The client against the real pod, and the same model in this process: same vectors, same errors."""

import io
import logging
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from clip_embedding_client import ClientSettings, ClipClient, Embedding, ImageItem, errors
from clip_embedding_client.backends.local import LocalBackend
from clip_embedding_client.clock import Clock
from clip_embedding_client.effects import InProcess
from clip_embedding_client.threads import ThreadDriver
from PIL import Image

from tools.testbed.image_server import ImageServer
from tools.testbed.process import SECRET, TINY_MODEL, PodProcess, pod_process

# Relative to the length of the vector, in float32: batches of different sizes add in a different order.
TOLERANCE = 1e-4

COLOURS = ["red", "green", "blue", "white", "yellow", "black"]


def pod_environ(base_url: str) -> dict[str, str]:
    return {
        "CLIP_INFERENCE_BACKEND": "runpod_pod",
        "CLIP_POD_BASE_URL": base_url,
        "EMBEDDING_HMAC_SECRET": SECRET,
        "CLIP_RETRY_ATTEMPTS": "2",
    }


LOCAL = {
    "CLIP_INFERENCE_BACKEND": "local",
    "CLIP_MODEL": str(TINY_MODEL),
    "CLIP_DTYPE": "float32",
    "DOWNLOAD_ALLOW_HOSTS": "127.0.0.1",
}


@pytest.fixture(scope="module")
def pod_client(pod: PodProcess) -> Iterator[ClipClient]:
    with ClipClient(ClientSettings.from_environ(pod_environ(pod.base_url))) as client:
        yield client


@pytest.fixture(scope="module")
def local_client() -> Iterator[ClipClient]:
    """Without a secret: in process there is nobody to prove anything to."""
    with ClipClient(ClientSettings.from_environ(LOCAL)) as client:
        yield client


@pytest.fixture(scope="module")
def urls(images: ImageServer) -> list[str]:
    return [images.add(f"/client-{colour}.png", _png(colour)) for colour in COLOURS]


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGB", (96, 64), "grey")
    image.paste(colour, (20, 10, 60, 50))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def distance(one: Embedding, other: Embedding) -> float:
    return float(np.linalg.norm(one.vector - other.vector) / np.linalg.norm(one.vector))


def test_every_operation(pod_client: ClipClient, urls: list[str]) -> None:
    """Health, an image, a text and a batch agree with each other."""
    health = pod_client.health()
    image = pod_client.embed_image(urls[0], request_id="scene-1")
    text = pod_client.embed_text(" ".join(["a red circle"] * 200), normalize=False)
    batch = pod_client.embed_images([ImageItem(url, normalize=False) for url in urls])

    assert (True, 512, image.fingerprint, "tiny-shapes") == (
        health.ready,
        health.dim,
        health.fingerprint,
        health.model_name,
    )
    assert ("scene-1", True, (512,), "runpod_pod") == (
        image.request_id,
        image.normalized,
        image.vector.shape,
        image.backend,
    )
    assert 1.0 == pytest.approx(float(np.linalg.norm(image.vector)), abs=1e-5)
    assert (True, False) == (text.truncated, text.normalized)
    first = batch[0]
    assert isinstance(first, Embedding)
    assert image.vector == pytest.approx(first.vector / np.linalg.norm(first.vector), abs=TOLERANCE)


def test_many_images_with_mishaps(pod_client: ClipClient, urls: list[str], images: ImageServer) -> None:
    """Forty images in three batches, some of which do not exist or are refused, come back in their places."""
    given = [urls[position % len(urls)] for position in range(40)]
    given[7] = images.base_url + "/client-missing.png?token=private"
    given[20] = "http://10.0.0.1/a.png"
    given[33] = ""

    results = pod_client.embed_images(given)

    failed = {
        position: type(result) for position, result in enumerate(results) if isinstance(result, errors.ClipClientError)
    }
    assert {7: errors.DownloadFailed, 20: errors.UrlNotAllowed, 33: errors.ValidationFailed} == failed
    assert "private" not in str(results[7])
    singles = [pod_client.embed_image(url) for url in urls]
    assert all(
        distance(singles[position % len(urls)], result) < TOLERANCE
        for position, result in enumerate(results)
        if isinstance(result, Embedding)
    )


def test_wrong_secret(pod: PodProcess) -> None:
    """A client with another secret is refused, at once and by name."""
    environ = pod_environ(pod.base_url) | {"EMBEDDING_HMAC_SECRET": "another"}
    with ClipClient(ClientSettings.from_environ(environ)) as client, pytest.raises(errors.AuthFailed):
        client.embed_text("x")


def test_path_that_is_not_the_service(pod: PodProcess) -> None:
    """A base URL with a path too many is answered by the service itself, as an operation that does not exist."""
    environ = pod_environ(pod.base_url + "/api")
    with ClipClient(ClientSettings.from_environ(environ)) as client, pytest.raises(errors.OperationNotFound):
        client.embed_text("x")


def test_local_gives_the_pods_vectors(pod_client: ClipClient, local_client: ClipClient, urls: list[str]) -> None:
    """The same core in this process: same fingerprint, same vectors, for images, batches and texts."""
    pairs = [
        (pod_client.embed_image(urls[0]), local_client.embed_image(urls[0])),
        (pod_client.embed_text("a blue square"), local_client.embed_text("a blue square")),
        *zip(pod_client.embed_images(urls), local_client.embed_images(urls), strict=True),
    ]

    for of_pod, of_local in pairs:
        assert isinstance(of_pod, Embedding)
        assert isinstance(of_local, Embedding)
        assert of_pod.fingerprint == of_local.fingerprint
        assert distance(of_pod, of_local) < TOLERANCE
        assert ("runpod_pod", "local") == (of_pod.backend, of_local.backend)
    assert local_client.health().ready


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("http://10.0.0.1/a.png", errors.UrlNotAllowed, id="address that is not public"),
        pytest.param("/client-missing.png", errors.DownloadFailed, id="missing image"),
        pytest.param("/client-broken.png", errors.InvalidImage, id="broken image"),
    ],
)
def test_local_gives_the_pods_errors(
    pod_client: ClipClient, local_client: ClipClient, images: ImageServer, name: str, expected: type[Exception]
) -> None:
    """Where the model runs makes no difference to the error either."""
    images.add("/client-broken.png", b"\x89PNG but not really")
    url = name if name.startswith("http") else images.base_url + name

    for client in (pod_client, local_client):
        with pytest.raises(errors.ClipClientError) as caught:
            client.embed_image(url, request_id="scene-1")
        assert (expected, "scene-1") == (type(caught.value), caught.value.request_id)


def test_local_with_a_secret_signs_as_well() -> None:
    """A secret in the environment is the service's too, so what is signed here is verified here."""
    environ = LOCAL | {"EMBEDDING_HMAC_SECRET": SECRET}
    with ClipClient(ClientSettings.from_environ(environ)) as client:
        assert (512,) == client.embed_text("a red circle").vector.shape
        assert not client.health().insecure_auth


def test_name_of_another_model_is_not_for_the_local_one(caplog: pytest.LogCaptureFixture) -> None:
    """MODEL_NAME is RunPod's in a container of the service; a worker may have one for something else."""
    with ClipClient(ClientSettings.from_environ(LOCAL | {"MODEL_NAME": "owner/of-another-kind"})) as client:
        assert "tiny-shapes" == client.health().model_name

    assert "MODEL_NAME" not in caplog.text


def test_local_without_a_model() -> None:
    """A model that is not there is a mistake in the settings, in one line, for many images as for one."""
    client = ClipClient(ClientSettings.from_environ(LOCAL | {"CLIP_MODEL": "/nowhere"}))

    with client, pytest.raises(errors.ConfigurationError):
        client.embed_images(["http://a/1.png"])


def test_pod_that_is_killed_in_the_middle(images: ImageServer, caplog: pytest.LogCaptureFixture) -> None:
    """With a pod killed under way all images arrive from the fallback, in order, and the switch is said once."""
    known = [images.add(f"/killed-{colour}.png", _png(colour)) for colour in COLOURS]
    gated = [images.add_gated(f"/killed-gated-{number}.png", _png(COLOURS[number])) for number in range(3)]
    # Three batches wait in the pod for their images, and die with it.
    given = [gated[position // 6][0] if position % 6 == 0 else known[position % 6] for position in range(18)] + known
    colours = [COLOURS[position // 6 if position % 6 == 0 else position % 6] for position in range(18)] + COLOURS
    with pod_process() as pod:
        environ = LOCAL | pod_environ(pod.base_url) | {"CLIP_FALLBACK_BACKEND": "local", "CLIP_BATCH_SIZE": "6"}

        def kill() -> None:
            for _, gate in gated:
                gate.wait_for_request()
            # The whole group: gunicorn's worker would outlive its master for long enough to answer.
            os.killpg(pod.process.pid, signal.SIGKILL)
            for _, gate in gated:
                gate.open()

        killer = threading.Thread(target=kill)
        with (
            ClipClient(ClientSettings.from_environ(environ)) as client,
            caplog.at_level(logging.WARNING, "clip_embedding_client"),
        ):
            reference = dict(zip(COLOURS, client.embed_images(known), strict=True))
            killer.start()
            results = client.embed_images(given)
            killer.join()

    assert len(given) == len(results)
    for colour, result in zip(colours, results, strict=True):
        expected = reference[colour]
        assert isinstance(expected, Embedding)
        assert isinstance(result, Embedding)
        assert distance(expected, result) < TOLERANCE
    assert {"local"} == {result.backend for result in results[:18] if isinstance(result, Embedding)}
    switched = [vars(record) for record in caplog.records if record.message == "the backend was switched"]
    assert [("runpod_pod", "local")] == [(record["from"], record["to"]) for record in switched]


def test_closed_local_backend_loads_nothing() -> None:
    """A call that was on its way when it was closed does not load the model again, which nobody would release."""
    backend = LocalBackend(LOCAL)
    called = next(backend.call("/v1/embed/text", {"text": "x"}, timeout_s=60.0))
    assert isinstance(called, InProcess)
    backend.close()

    with pytest.raises(errors.ClientClosed):
        called.call()
    with pytest.raises(errors.ClientClosed):
        ThreadDriver(connect_timeout_s=60.0, clock=Clock()).run(backend.health(timeout_s=60.0))
