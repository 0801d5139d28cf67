"""Every twin, and every real target: a pod, a handler under the SDK's own loop, the core in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
from clip_embedding_client import ClientSettings
from clip_embedding_client.clock import Clock

from models.shapes import KINDS, draw, single
from tests.client.twins.twin import TWINS, Opened, Twin
from tools.testbed.control_plane import API_KEY, ENDPOINT_ID, ControlPlane
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.process import PodProcess, ServiceProcess, environment

TARGETS = ("runpod_pod", "runpod_serverless", "local")
_SIDE_PX = 96


async def _not_at_all(_seconds: float) -> None:
    """Pauses between attempts are none of these tests' business."""


NO_PAUSES = Clock(sleep=lambda _seconds, _left: None, asleep=_not_at_all)


@pytest.fixture(params=TWINS)
def opened(request: pytest.FixtureRequest) -> Opened:
    """Opens a client of one kind, then of the other."""
    return TWINS[request.param]


@pytest.fixture(scope="session")
def environ(plane: ControlPlane, pod: PodProcess) -> Mapping[str, str]:
    """What a client needs for any target but its name."""
    return {
        **environment(),
        "CLIP_POD_BASE_URL": pod.base_url,
        "RUNPOD_BASE_URL": plane.base_url,
        "RUNPOD_API_KEY": API_KEY,
        "RUNPOD_CLIP_ENDPOINT_ID": ENDPOINT_ID,
    }


Client = Callable[[str, str], Twin]
"""(twin, target) -> its client, the same for the whole run."""


@pytest.fixture(scope="session")
def client_of(environ: Mapping[str, str], handler: ServiceProcess) -> Iterator[Client]:
    made: dict[tuple[str, str], Twin] = {}
    with ExitStack() as stack:

        def client(twin: str, target: str) -> Twin:
            if (twin, target) not in made:
                settings = ClientSettings.from_environ({**environ, "CLIP_INFERENCE_BACKEND": target})
                made[twin, target] = stack.enter_context(TWINS[twin](settings, None, None))
            return made[twin, target]

        yield client


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=TWINS)
def client(request: pytest.FixtureRequest, target: str, client_of: Client) -> Twin:
    """Each twin at each target."""
    return client_of(request.param, target)


@pytest.fixture(scope="session")
def drawings() -> list[bytes]:
    """A dozen PNGs that look different."""
    return [encoded(draw(single(*kind), _SIDE_PX), "PNG") for kind in KINDS]


@pytest.fixture(scope="session")
def urls(images: ImageServer, drawings: list[bytes]) -> list[str]:
    """Where they are."""
    return [images.add(f"/twins/{number}.png", data) for number, data in enumerate(drawings)]
