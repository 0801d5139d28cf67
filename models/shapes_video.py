"""A short video of what the bundled model knows, for a machine that has no video: coloured shapes appear, move, change.

What `make demo` shows; knows nothing of models, and nothing of who cuts it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from models.shapes import COLOURS, Background, Rgb, Scene, Shape, draw

FRAMES_PER_S = 12
HEIGHT_PX = 240
ASPECT = 16 / 9
# A search that finds something in it.
EXAMPLE = "a red circle"
# Neighbours differ in it, as the scenes of a film do in light.
BACKDROPS: tuple[Rgb, ...] = ((236, 236, 236), (24, 24, 28), (252, 252, 250), (150, 152, 160), (226, 214, 226))


@dataclass(frozen=True, slots=True)
class Shot:
    """One scene: shapes on their way from where they are at first to where they are at last.

    `found_by` are searches that should find it before all others.
    """

    found_by: tuple[str, ...]
    first: tuple[Shape, ...]
    last: tuple[Shape, ...]
    seconds: float = 2.0


def _shape(kind: str, *, x: float = 0.5, y: float = 0.5, size: float = 0.46, angle_deg: float = 0.0) -> Shape:
    colour, form = kind.split()
    return Shape(colour, form, COLOURS[colour], x, y, size, angle_deg)


def _still(kind: str, *others: str) -> Shot:
    """One shape that grows a little, as if it came nearer."""
    words = (f"a {kind}", *others)
    return Shot(words, (_shape(kind, size=0.40),), (_shape(kind, size=0.52),))


def _pair(left: str, right: str) -> Shot:
    """Two shapes beside each other."""
    shapes = (_shape(left, x=0.27, size=0.34), _shape(right, x=0.73, size=0.34))
    return Shot((f"a {left} and a {right}",), shapes, shapes)


STORY: tuple[Shot, ...] = (
    _still("red circle", "a picture of a circle that is red"),
    _still("blue square", "one square, painted blue"),
    _still("green triangle", "there is a green triangle in the image"),
    _still("yellow circle", "we see a yellow coloured circle"),
    _pair("red square", "blue circle"),
    _still("blue triangle"),
    # It appears: from a dot to a large one.
    Shot(("a red triangle",), (_shape("red triangle", size=0.14),), (_shape("red triangle", size=0.6),), 3.0),
    _pair("yellow triangle", "green circle"),
    # It crosses the picture.
    Shot(("a blue circle",), (_shape("blue circle", x=0.3),), (_shape("blue circle", x=0.7),), 3.0),
    _pair("green triangle", "red circle"),
    # It turns.
    Shot(("a yellow triangle",), (_shape("yellow triangle"),), (_shape("yellow triangle", angle_deg=20),), 3.0),
    _still("red square", "an image with a red square"),
    _still("green circle"),
    # It changes its colour, and takes so long that several frames stand for it.
    Shot(("a green square", "a yellow square"), (_shape("green square"),), (_shape("yellow square"),), 14.0),
    _pair("blue square", "yellow circle"),
)


def make_video(path: Path, story: Sequence[Shot] = STORY) -> None:
    """Encode the shots as VP9 in WebM, which PyAV's wheel can write and every browser can play."""
    unfinished = path.with_suffix(".part")
    with av.open(unfinished, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=FRAMES_PER_S)
        stream.width, stream.height, stream.pix_fmt = round(HEIGHT_PX * ASPECT), HEIGHT_PX, "yuv420p"
        # Quick to encode; a key frame each second, so that a player is quick to seek.
        stream.options = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0", "g": str(FRAMES_PER_S)}
        for picture in _pictures(story):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    unfinished.replace(path)


def _pictures(story: Sequence[Shot]) -> Iterator[Image.Image]:
    for number, shot in enumerate(story):
        backdrop = BACKDROPS[number % len(BACKDROPS)]
        count = round(shot.seconds * FRAMES_PER_S)
        for position in range(count):
            share = position / (count - 1)
            shapes = tuple(_between(*ends, share) for ends in zip(shot.first, shot.last, strict=True))
            yield draw(Scene(shapes, Background(backdrop, backdrop), ASPECT), HEIGHT_PX)


def _between(one: Shape, other: Shape, share: float) -> Shape:
    def mixed(a: float, b: float) -> float:
        return a + (b - a) * share

    red, green, blue = (round(mixed(a, b)) for a, b in zip(one.rgb, other.rgb, strict=True))
    return Shape(
        colour=one.colour,
        form=one.form,
        rgb=(red, green, blue),
        x=mixed(one.x, other.x),
        y=mixed(one.y, other.y),
        size=mixed(one.size, other.size),
        angle_deg=mixed(one.angle_deg, other.angle_deg),
    )
