"""Fixtures shared by all packages: one image server and one pod for the whole run."""

from collections.abc import Iterator

import pytest

from tests.support.image_server import ImageServer, image_server
from tests.support.process import PodProcess, pod_process
from tests.support.target import PodTarget


@pytest.fixture(scope="session")
def images() -> Iterator[ImageServer]:
    """A web server for images on loopback."""
    with image_server() as server:
        yield server


@pytest.fixture(scope="session")
def pod() -> Iterator[PodProcess]:
    """A ready pod with the bundled model in float32."""
    with pod_process() as process:
        yield process


@pytest.fixture(scope="session")
def pod_target(pod: PodProcess) -> PodTarget:
    return PodTarget(pod.base_url)
