"""Fixtures shared by all packages: one image server, one pod and one serverless handler for the whole run."""

import locale
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tools.testbed.control_plane import ControlPlane, control_plane
from tools.testbed.image_server import ImageServer, image_server
from tools.testbed.process import PodProcess, ServiceProcess, handler_process, pod_process
from tools.testbed.target import HandlerTarget, PodTarget

# A slow machine is no finding: neither one example's time nor that of making them decides.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


# Of the process as it was started.
LOCALE = locale.setlocale(locale.LC_CTYPE)


def pytest_runtest_setup() -> None:
    """A library may have set the locale in an earlier test: this one must not read or write in it."""
    locale.setlocale(locale.LC_CTYPE, LOCALE)


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


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A RunPod on loopback."""
    with control_plane() as running:
        yield running


@pytest.fixture(scope="session")
def handler(plane: ControlPlane) -> Iterator[ServiceProcess]:
    """A handler that takes the jobs of `plane`; its batches are in its log."""
    with handler_process({**plane.worker_environment(), "LOG_LEVEL": "DEBUG"}) as process:
        yield process


@pytest.fixture(scope="session")
def handler_target(plane: ControlPlane, handler: ServiceProcess) -> HandlerTarget:
    return HandlerTarget(plane)
