"""The backends of the contract suite, and drawings on the image server."""

import io
from dataclasses import dataclass

import pytest

from models.shapes import COLOURS, SHAPES, draw, single
from tests.support.image_server import ImageServer
from tests.support.target import PodTarget, Target


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn shape on the image server and the caption that is true of it."""

    url: str
    caption: str


@pytest.fixture(scope="session", params=["pod"])
def target(request: pytest.FixtureRequest) -> Target:
    """Every backend in turn: the suite says the same of each."""
    backend: Target = request.getfixturevalue(f"{request.param}_target")
    return backend


@pytest.fixture(scope="session")
def drawings(images: ImageServer) -> list[Drawing]:
    """All colours and shapes, half as PNG and half as JPEG."""
    return [
        Drawing(images.add(f"/{colour}-{form}", _encoded(colour, form)), f"a {colour} {form}")
        for colour in COLOURS
        for form in SHAPES
    ]


def _encoded(colour: str, form: str) -> bytes:
    buffer = io.BytesIO()
    image_format = "PNG" if form == "circle" else "JPEG"
    draw(single(colour, form), 320).save(buffer, image_format, quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pod_only(pod_target: PodTarget) -> PodTarget:
    """For what only HTTP has: raw bodies, headers, status codes."""
    return pod_target
