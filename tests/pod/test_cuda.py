"""A whole pod on a CUDA device, beside one on the CPU: `pytest tests/pod/test_cuda.py` where there is one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import requests
import torch

from models.shapes import COLOURS, draw, single
from shared_auth.contract import EMBED_IMAGE, EMBED_TEXT
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import PodProcess, pod_process
from tools.testbed.target import PodTarget, signed_image, signed_text

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

Vector = npt.NDArray[np.float32]

# Of float16, against vectors of length 1.
TOLERANCE = 0.01


@pytest.fixture(scope="module")
def on_cuda() -> Iterator[PodProcess]:
    with pod_process({"CLIP_DEVICE": "cuda", "CLIP_DTYPE": "auto", "CACHE_BYTES": "0"}) as pod:
        yield pod


def test_health_names_the_device(on_cuda: PodProcess) -> None:
    """Somebody who rents a GPU sees that it is what answers."""
    health = requests.get(on_cuda.base_url + "/health", timeout=10).json()

    assert health["device"].startswith("cuda")


def test_many_at_once_get_the_vectors_of_the_cpu(
    on_cuda: PodProcess, pod_target: PodTarget, images: ImageServer
) -> None:
    """Images and texts together, from several clients: batches of both streams, each with its own vector."""
    target = PodTarget(on_cuda.base_url)
    urls = [images.add(f"/cuda-{colour}", encoded(draw(single(colour, "circle"), 320), "PNG")) for colour in COLOURS]

    def ask(target: PodTarget, what: str) -> Vector:
        """A URL or a text."""
        body = signed_image(what) if what in urls else signed_text(what)
        return target.send(EMBED_IMAGE if what in urls else EMBED_TEXT, body).vector

    asked = [*urls, *(f"a {colour} circle" for colour in COLOURS)]
    with ThreadPoolExecutor(16) as clients:
        actual = list(clients.map(partial(ask, target), asked * 4))
    expected = [ask(pod_target, what) for what in asked] * 4

    assert TOLERANCE > max(np.linalg.norm(one - other) for one, other in zip(actual, expected, strict=True))
