"""One contract: whatever the client and whatever the target, the same calls give the same results."""

from __future__ import annotations

import io
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from clip_embedding_client import ClipClientError, Embedding, ImageItem, TextItem, errors
from PIL import Image

from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tests.client.twins.conftest import Client
from tests.client.twins.twin import TWINS, Twin
from tools.testbed.image_server import ImageServer
from tools.testbed.loopback import QuietHandler, base_url, serving
from tools.testbed.target import PodTarget, signed_image, signed_text

# float32 everywhere: batches of different sizes add in a different order, nothing else differs.
TOLERANCE = 1e-4
# The same service, or the same core, asked for the same.
SAME = 1e-6

Vector = npt.NDArray[np.float32]
Source = Callable[[bytes, str, Path], Any]


@pytest.fixture(scope="session")
def expected_images(pod_target: PodTarget, urls: list[str]) -> list[Vector]:
    """The drawings' vectors, as a pod answers them to nobody's client."""
    return [pod_target.send(EMBED_IMAGE, signed_image(url)).vector for url in urls]


def rows(results: Sequence[Embedding | ClipClientError]) -> Vector:
    return np.stack([result.vector for result in results if isinstance(result, Embedding)])


def assert_close(expected: object, actual: object, tolerance: float = TOLERANCE) -> None:
    assert tolerance > float(np.abs(np.asarray(expected) - np.asarray(actual)).max())


def _path(data: bytes, _url: str, folder: Path) -> Path:
    path = folder / "drawing.png"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda _data, url, _folder: url, id="URL"),
        pytest.param(_path, id="path"),
        pytest.param(lambda data, _url, _folder: data, id="bytes"),
        pytest.param(lambda data, _url, _folder: io.BytesIO(data), id="file"),
        pytest.param(lambda data, _url, _folder: Image.open(io.BytesIO(data)), id="PIL"),
    ],
)
def test_image(
    client: Twin,
    target: str,
    source: Source,
    drawings: list[bytes],
    urls: list[str],
    expected_images: list[Vector],
    tmp_path: Path,
) -> None:
    """A picture has one vector, whichever way it comes, with all that is said of it."""
    embedding = client.embed_image(source(drawings[0], urls[0], tmp_path), request_id="scene-1")

    assert_close(expected_images[0], embedding.vector)
    assert ("scene-1", target, True, False) == (
        embedding.request_id,
        embedding.backend,
        embedding.normalized,
        embedding.truncated,
    )
    assert (np.dtype(np.float32), (512,), "tiny-shapes") == (
        embedding.vector.dtype,
        embedding.vector.shape,
        embedding.model_name,
    )
    assert client.health().fingerprint == embedding.fingerprint


def test_text(client: Twin, pod_target: PodTarget) -> None:
    """A text has one vector, and one that is too long says so."""
    short = client.embed_text("a red circle", request_id="query-1")
    long = client.embed_text("a red circle " * 200)

    assert_close(pod_target.send(EMBED_TEXT, signed_text("a red circle")).vector, short.vector)
    assert ("query-1", False, True) == (short.request_id, short.truncated, long.truncated)
    assert (32, 0) == (len(long.request_id), len(long.request_id.strip("0123456789abcdef")))


def test_not_normalised(client: Twin, urls: list[str]) -> None:
    """The vector as the model gives it has the same direction, and another length."""
    for normal, plain in (
        (client.embed_image(urls[1]), client.embed_image(urls[1], normalize=False)),
        (client.embed_text("a blue square"), client.embed_text("a blue square", normalize=False)),
    ):
        length = float(np.linalg.norm(plain.vector))
        assert abs(length - 1) > 0.1
        assert (True, False) == (normal.normalized, plain.normalized)
        assert_close(normal.vector, plain.vector / length)


@pytest.mark.parametrize("call", ["embed_images", "iter_images"])
def test_images(
    client: Twin, call: str, urls: list[str], expected_images: list[Vector], images: ImageServer, drawings: list[bytes]
) -> None:
    """Each image's result is in its place, under its own id, and the errors of some are nobody else's."""
    items = [ImageItem(urls[number % len(urls)], request_id=f"image-{number}") for number in range(40)]
    items[3] = ImageItem(drawings[3], request_id="image-3")
    items[7] = ImageItem(images.base_url + "/twins/missing.png?token=private", request_id="image-7")
    items[8] = ImageItem(Path("/nowhere/at/all.png"), request_id="image-8")
    items[20] = ImageItem("http://10.0.0.1/a.png", request_id="image-20")
    items[33] = ImageItem("", request_id="image-33")
    items[39] = ImageItem(b"\x89PNG but not really", request_id="image-39")

    results = list(getattr(client, call)(item for item in items))

    failed = {
        number: type(result) for number, result in enumerate(results) if isinstance(result, errors.ClipClientError)
    }
    assert [item.request_id for item in items] == [result.request_id for result in results]
    assert failed == {
        7: errors.DownloadFailed,
        8: errors.FileUnreadable,
        20: errors.UrlNotAllowed,
        33: errors.ValidationFailed,
        39: errors.InvalidImage,
    }
    assert "private" not in str(results[7])
    wanted = [expected_images[number % len(urls)] for number in range(40) if number not in failed]
    assert_close(wanted, rows(results))


@pytest.mark.parametrize("call", ["embed_texts", "iter_texts"])
def test_texts(client: Twin, call: str) -> None:
    """More texts than one request takes, some of them twice, which travel as one: one result each, in its place, and
    vectors that are each one's own."""
    run = uuid.uuid4().hex[:6]
    texts = [TextItem(f"{run} {number % 50}", request_id=f"text-{number}") for number in range(150)]
    texts[20] = TextItem("", request_id="text-20")

    results = list(getattr(client, call)(texts))

    assert [item.request_id for item in texts] == [result.request_id for result in results]
    assert [20] == [number for number, result in enumerate(results) if isinstance(result, errors.ValidationFailed)]
    singles = {number: client.embed_text(f"{run} {number}").vector for number in (0, 29, 49)}
    for number, result in enumerate(results):
        if number % 50 in singles:
            assert isinstance(result, Embedding)
            assert_close(singles[number % 50], result.vector)
    first, again = results[0], results[50]
    assert isinstance(first, Embedding)
    assert isinstance(again, Embedding)
    first.vector[:] = 0
    assert again.vector.any()


def test_source_is_read_as_results_are_taken(client: Twin, urls: list[str]) -> None:
    """A generator without end gives its first results: nobody reads all of it first."""
    given = itertools.cycle(urls)
    results = client.iter_images(given)
    first = list(itertools.islice(results, 3))
    results.close()  # type: ignore[attr-defined]

    assert 3 == len(rows(first))


def test_progress(client: Twin, urls: list[str]) -> None:
    """Whoever waits for all results hears of each one."""
    heard: list[tuple[int, int | None]] = []
    client.embed_images(urls, on_progress=lambda done, total: heard.append((done, total)))

    assert [(number + 1, len(urls)) for number in range(len(urls))] == heard


def test_health(client: Twin, target: str) -> None:
    """Health says which model, and whether it takes requests."""
    health = client.health()

    assert (target, "ok", True, 512, "tiny-shapes") == (
        health.backend,
        health.status,
        health.ready,
        health.dim,
        health.model_name,
    )


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param("/twins/missing.png", errors.DownloadFailed, id="missing"),
        pytest.param("/twins/broken.png", errors.InvalidImage, id="broken"),
        pytest.param("http://169.254.169.254/latest", errors.UrlNotAllowed, id="address that is not public"),
        pytest.param("", errors.ValidationFailed, id="empty URL"),
        pytest.param(b"", errors.ValidationFailed, id="no bytes"),
        pytest.param(b"GIF89a but not really", errors.InvalidImage, id="broken bytes"),
        pytest.param(Path("/nowhere.png"), errors.FileUnreadable, id="no file"),
        pytest.param(io.StringIO("x"), errors.ValidationFailed, id="file of text"),
        pytest.param(7, errors.ValidationFailed, id="a number"),
    ],
)
def test_error(client: Twin, images: ImageServer, image: Any, expected: type[ClipClientError]) -> None:  # noqa: ANN401
    """A refusal is a typed error that names its request, alone and among others."""
    images.add("/twins/broken.png", b"\xff\xd8\xff\xe0 not really a JPEG")
    source = images.base_url + image if isinstance(image, str) and image.startswith("/") else image
    with pytest.raises(ClipClientError) as caught:
        client.embed_image(source, request_id="scene-1")
    [result] = client.embed_images([ImageItem(source, request_id="scene-2")])

    assert (expected, "scene-1") == (type(caught.value), caught.value.request_id)
    assert (expected, "scene-2") == (type(result), result.request_id)


def test_single_string_is_not_several(client: Twin) -> None:
    """Nobody means the characters of a URL."""
    with pytest.raises(TypeError):
        client.embed_images("http://a/b.png")
    with pytest.raises(TypeError):
        client.embed_texts("a text")


def test_timeout(client: Twin, images: ImageServer, drawings: list[bytes]) -> None:
    """A call whose image does not come ends with its own time, whoever notices first, and the client goes on."""
    url, gate = images.add_gated(f"/twins/{uuid.uuid4().hex}.png", drawings[0])
    try:
        with pytest.raises(errors.RetryableError) as caught:
            client.embed_image(url, timeout=0.5, max_retries=0)
        [result] = client.embed_images([url], timeout=0.5, max_retries=0)
    finally:
        gate.open()

    late = {errors.BackendTimeout, errors.DeadlineExceeded}
    assert {type(caught.value), type(result)} <= late
    assert isinstance(client.embed_image(url), Embedding)


class _Unwell(QuietHandler):
    """An image server that is out of order."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def unwell_url() -> Iterator[str]:
    with serving(_Unwell) as httpd:
        yield base_url(httpd) + "/image.png"


def test_max_retries(client: Twin, unwell_url: str) -> None:
    """What can pass is tried again as often as the call says, and not at all for 0, alone and among others."""
    before = client.counters["retries"]
    retries = []
    for most in (0, 1):
        with pytest.raises(errors.DownloadInterrupted):
            client.embed_image(unwell_url, max_retries=most)
        [result] = client.embed_images([unwell_url], max_retries=most)
        assert isinstance(result, errors.DownloadInterrupted)
        retries.append(client.counters["retries"] - before)

    assert [0, 2] == retries


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": -1}, {"max_retries": -1}], ids=["no time", "less than none", "retries"]
)
def test_arguments_that_no_call_can_have(client: Twin, options: Mapping[str, float]) -> None:
    """They are a mistake of the caller's, named at once."""
    with pytest.raises(errors.ConfigurationError):
        client.embed_text("x", **options)


def test_cached(client: Twin) -> None:
    """The service says when it had the vector already."""
    text = uuid.uuid4().hex
    first, again = client.embed_text(text), client.embed_text(text)
    [batched] = client.embed_texts([text])

    assert isinstance(batched, Embedding)
    assert (False, True, True) == (first.cached, again.cached, batched.cached)
    assert first.vector.tolist() == again.vector.tolist() == batched.vector.tolist()


def test_twins_give_the_same(
    target: str, client_of: Client, urls: list[str], images: ImageServer, drawings: list[bytes]
) -> None:
    """Both clients give the same vectors and the same errors, word for word, for everything that they can be asked."""
    given: list[Any] = [
        *urls,
        *drawings,
        images.base_url + "/twins/missing.png",
        "http://10.0.0.1/",
        "",
        b"no image",
        Path("/no"),
    ]
    items = [ImageItem(image, request_id=f"item-{number}") for number, image in enumerate(given)]
    texts = [TextItem(f"text {number % 70}", request_id=f"text-{number}") for number in range(140)]
    threads, looped = (_everything(client_of(twin, target), items, texts) for twin in TWINS)

    assert [_said(one) for one in threads] == [_said(one) for one in looped]
    assert_close(rows(threads), rows(looped), SAME)


def _everything(client: Twin, items: list[ImageItem], texts: list[TextItem]) -> Sequence[Embedding | ClipClientError]:
    alone = [client.embed_image(item.image, request_id=item.request_id) for item in items[:3]]
    plain = client.embed_text("a red circle", request_id="plain", normalize=False)
    return [
        *alone,
        plain,
        *client.embed_images(items),
        *client.iter_images(iter(items)),
        *client.embed_texts(texts),
        *client.iter_texts(iter(texts)),
    ]


def _said(result: Embedding | ClipClientError) -> tuple[object, ...]:
    if isinstance(result, Embedding):
        return result.request_id, result.fingerprint, result.normalized, result.truncated, result.backend
    return type(result), str(result), result.code, result.retry_after_s
