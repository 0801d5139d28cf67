"""Fixtures shared by all packages: one image server, one pod and one serverless handler for the whole run."""

import locale
import os
from collections.abc import Iterator

# Before numpy and torch are here: where others want the processors too, threads that wait for each other in a loop take
# several times as long as one. Services under test are not told.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import HealthCheck, settings

from tools.testbed.control_plane import ControlPlane, control_plane
from tools.testbed.image_server import ImageServer, image_server
from tools.testbed.process import (
    LEAVING,
    LEAVING_SECRET,
    ROOT,
    PodProcess,
    ServiceProcess,
    handler_process,
    pod_process,
)
from tools.testbed.target import HandlerTarget, PodTarget

# A slow machine is no finding: neither one example's time nor that of making them decides.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


# Files of a minute and more, those that wait and those that compute in turns, go first: each is one process's, and the
# last one would be waited for.
LONG = [
    "bulk/test_runs.py",
    "core/clip/int8/test_baking.py",
    "bulk/test_alone.py",
    "core/clip/test_parity.py",
    "chaos/test_scenarios.py",
    "core/clip/test_every_clip.py",
    "bulk/test_loading.py",
    "bench/test_gpu.py",
    "pod/test_pauses.py",
    "core/clip/test_cuda_engine.py",
    "core/images/test_pool.py",
    "examples/video_search/test_worker.py",
    "pod/test_process.py",
    "pod/test_processes.py",
    "core/clip/test_bake.py",
    "client/packaging/test_wheel.py",
    "client/packaging/test_types.py",
    "tools/test_run_local.py",
    "bench/test_scaling.py",
    "chaos/test_secrets.py",
    "serverless/test_production_loop.py",
    "pod/test_docs_page.py",
    "tools/test_demo.py",
]
_PLACES = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
assert all(path.is_file() for path in _PLACES), "a file of LONG has another name now"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _PLACES.get(item.path, len(_PLACES)))


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
    with pod_process({"EMBEDDING_HMAC_CLIENTS": f"{LEAVING}:{LEAVING_SECRET}"}) as process:
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
