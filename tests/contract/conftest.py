"""The backends of the contract suite, and drawings on the image server."""

from dataclasses import dataclass

import pytest

from models.shapes import COLOURS, SHAPES, draw, single
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded
from tools.testbed.target import Target


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn shape on the image server and the caption that is true of it."""

    url: str
    caption: str


@pytest.fixture(scope="session", params=["pod", "handler"])
def target(request: pytest.FixtureRequest) -> Target:
    """Every backend in turn: the suite says the same of each."""
    backend: Target = request.getfixturevalue(f"{request.param}_target")
    return backend


@pytest.fixture(scope="session")
def drawings(images: ImageServer) -> list[Drawing]:
    """All colours and shapes, half as PNG and half as JPEG."""
    return [
        Drawing(images.add(f"/{colour}-{form}", _as_file(colour, form)), f"a {colour} {form}")
        for colour in COLOURS
        for form in SHAPES
    ]


def _as_file(colour: str, form: str) -> bytes:
    image_format = "PNG" if form == "circle" else "JPEG"
    return encoded(draw(single(colour, form), 320), image_format, quality=90)
