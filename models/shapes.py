"""Draws scenes of one or two coloured shapes and writes captions that are true of them.

Knows nothing of models. Positions and sizes are shares of the centre square, the part of an
image that is left after a centre crop, so that a caption stays true of what a model sees.
"""

import io
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

Rgb: TypeAlias = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (222, 32, 36),
    "green": (30, 158, 58),
    "blue": (34, 66, 214),
    "yellow": (244, 212, 30),
}
SHAPES = ("circle", "square", "triangle")
KINDS = tuple((colour, form) for colour in COLOURS for form in SHAPES)
SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom", "middle")

# A colour word covers a range of paints; a sampled colour lies between two of these.
SHADES: dict[str, tuple[Rgb, ...]] = {
    "red": (COLOURS["red"], (255, 0, 0), (176, 16, 28), (240, 66, 58)),
    "green": (COLOURS["green"], (0, 255, 0), (0, 128, 0), (70, 190, 84)),
    "blue": (COLOURS["blue"], (0, 0, 255), (14, 36, 150), (62, 112, 236)),
    "yellow": (COLOURS["yellow"], (255, 255, 0), (226, 190, 14), (252, 228, 92)),
}

# Share of the square's side. The gap between the bands is drawn too, but called neither.
SMALLEST = 0.14
SMALL_MAX = 0.27
LARGE_MIN = 0.52
LARGEST = 0.7
# A centre within this share of an edge is on that side; the middle keeps its distance from both.
SIDE_MAX = 0.36
MIDDLE_MAX_OFFSET = 0.08

TWO_SHAPES_SHARE = 0.35
SUPERSAMPLING = 4
PLAIN_SIZE = 0.46
PLAIN_BACKGROUND: Rgb = (236, 236, 236)


@dataclass(frozen=True)
class Shape:
    """One shape; centre and size (circle's diameter, square's side) as shares of the centre square."""

    colour: str
    form: str
    rgb: Rgb
    x: float = 0.5
    y: float = 0.5
    size: float = PLAIN_SIZE
    angle_deg: float = 0.0


@dataclass(frozen=True)
class Background:
    """A vertical gradient (plain where both ends agree) with Gaussian noise of a given seed."""

    top: Rgb
    bottom: Rgb
    noise_std: float = 0.0
    noise_seed: int = 0


@dataclass(frozen=True)
class Scene:
    """Shapes on a background; aspect is width over height."""

    shapes: tuple[Shape, ...]
    background: Background
    aspect: float = 1.0


@dataclass(frozen=True)
class Mention:
    """What a caption says about one shape; None says nothing."""

    colour: str
    form: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Caption:
    """A text and what it claims; captions with the same meaning say the same, in any order or words."""

    text: str
    meaning: frozenset[Mention]

    def is_true_of(self, scene: Scene) -> bool:
        return self.meaning <= truths(scene)


def single(colour: str, form: str, *, aspect: float = 1.0) -> Scene:
    """One shape, upright and centred on light grey: the plain default drawing."""
    shape = Shape(colour, form, COLOURS[colour])
    return Scene((shape,), Background(PLAIN_BACKGROUND, PLAIN_BACKGROUND), aspect)


def draw(scene: Scene, size_px: int = 224) -> Image.Image:
    """The scene as an RGB image whose shorter side is size_px."""
    width = round(size_px * max(1.0, scene.aspect))
    height = round(size_px * max(1.0, 1 / scene.aspect))
    image = _draw_background(scene.background, width, height)
    for shape in scene.shapes:
        _draw_shape(image, shape, size_px)
    return image


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after a round trip through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _draw_background(background: Background, width: int, height: int) -> Image.Image:
    if background.top == background.bottom and not background.noise_std:
        return Image.new("RGB", (width, height), background.top)
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, bottom = (np.asarray(rgb, np.float32) for rgb in (background.top, background.bottom))
    pixels = np.broadcast_to(top * (1 - share) + bottom * share, (height, width, 3))
    if background.noise_std:
        noise = np.random.default_rng(background.noise_seed).standard_normal((height, width, 1), np.float32)
        pixels = pixels + noise * background.noise_std
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_shape(image: Image.Image, shape: Shape, side_px: int) -> None:
    """Paste the shape through a mask that is drawn larger and reduced, which smooths its edge."""
    radius_px = _outer_radius(shape.form, shape.size) * side_px
    centre_x = (image.width - side_px) / 2 + shape.x * side_px
    centre_y = (image.height - side_px) / 2 + shape.y * side_px
    left, top = math.floor(centre_x - radius_px), math.floor(centre_y - radius_px)
    mask_px = math.ceil(2 * radius_px) + 2
    mask = Image.new("L", (mask_px * SUPERSAMPLING,) * 2)
    outline = _outline(shape, centre_x - left, centre_y - top, radius_px)
    ImageDraw.Draw(mask).polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in outline], fill=255)
    image.paste(shape.rgb, (left, top), mask.reduce(SUPERSAMPLING))


def _outer_radius(form: str, size: float) -> float:
    """Radius of the circle around the shape, chosen so that equal sizes look about equally large."""
    return {"circle": 0.5, "square": math.sqrt(0.5), "triangle": 0.66}[form] * size


def _outline(shape: Shape, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    corners, first_deg = {"circle": (90, 0.0), "square": (4, 45.0), "triangle": (3, -90.0)}[shape.form]
    angles = (math.radians(first_deg + shape.angle_deg + 360 * k / corners) for k in range(corners))
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def truths(scene: Scene) -> frozenset[Mention]:
    """Every mention that is true of the scene, with and without its size and place."""
    return frozenset(mention for shape in scene.shapes for mention in _mentions(shape))


def _mentions(shape: Shape) -> Iterator[Mention]:
    for size in (None, *sizes(shape)):
        for place in (None, *places(shape)):
            yield Mention(shape.colour, shape.form, size, place)


def sizes(shape: Shape) -> tuple[str, ...]:
    """The size words that are true of the shape: one or none."""
    if shape.size <= SMALL_MAX:
        return ("small",)
    return ("large",) if shape.size >= LARGE_MIN else ()


def places(shape: Shape) -> tuple[str, ...]:
    """The place words that are true of the shape: two in a corner, none between side and middle."""
    offset = max(abs(shape.x - 0.5), abs(shape.y - 0.5))
    holds = (
        shape.x <= SIDE_MAX,
        shape.x >= 1 - SIDE_MAX,
        shape.y <= SIDE_MAX,
        shape.y >= 1 - SIDE_MAX,
        offset <= MIDDLE_MAX_OFFSET,
    )
    return tuple(place for place, true in zip(PLACES, holds, strict=True) if true)


_PLACE_WORDS = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "middle": ("in the middle", "in the centre"),
}
# The first is the plain wording. A size, where one is said, ends in a space.
_NOUNS = (
    "a {size}{colour} {form}",
    "one {size}{colour} {form}",
    "the {size}{colour} {form}",
    "a single {size}{colour} {form}",
    "a {size}{colour} coloured {form}",
    "a {size}{form} that is {colour}",
    "a {size}{form} in {colour}",
    "one {size}{form}, painted {colour}",
)
_FRAMES = (
    "{}",
    "a picture of {}",
    "a photo of {}",
    "a drawing of {}",
    "an image of {}",
    "an image with {}",
    "this picture shows {}",
    "there is {} in the image",
    "there is {}",
    "we see {}",
    "{}.",
)
_PLAIN_CAPTION_SHARE = 0.35


def caption(scene: Scene) -> Caption:
    """The plain caption, colours and shapes only: "a red circle and a blue square"."""
    return plain_caption([Mention(shape.colour, shape.form) for shape in scene.shapes])


def plain_caption(mentions: Sequence[Mention]) -> Caption:
    """The shortest wording of the mentions: "a small red circle on the left"."""
    parts = (_phrase(mention, _NOUNS[0], 0) for mention in mentions)
    return Caption(" and ".join(parts), frozenset(mentions))


def sample_caption(rng: random.Random, mentions: Sequence[Mention]) -> Caption:
    """One of many wordings of the mentions, in either order."""
    ordered = rng.sample(mentions, len(mentions))
    if rng.random() < _PLAIN_CAPTION_SHARE:
        return plain_caption(ordered)
    parts = [_phrase(mention, rng.choice(_NOUNS), rng.randrange(2)) for mention in ordered]
    return Caption(rng.choice(_FRAMES).format(" and ".join(parts)), frozenset(mentions))


def _phrase(mention: Mention, noun: str, place_wording: int) -> str:
    size = f"{mention.size} " if mention.size else ""
    words = noun.format(size=size, colour=mention.colour, form=mention.form)
    if mention.place is None:
        return words
    return f"{words} {_PLACE_WORDS[mention.place][place_wording]}"


def sample_mentions(rng: random.Random, scene: Scene) -> list[Mention]:
    """A true description: of two shapes their kinds alone, of one shape at times its size or place too."""
    if len(scene.shapes) > 1 or rng.random() < 0.4:
        return [Mention(shape.colour, shape.form) for shape in scene.shapes]
    return [rng.choice(list(_mentions(scene.shapes[0])))]


def sample_scene(rng: random.Random, kinds: Sequence[tuple[str, str]] | None = None, *, variety: float = 1.0) -> Scene:
    """A scene of the given one or two kinds, or of kinds drawn at random, no two the same.

    Variety from 0 to 1 is how often there are two, and how far a single shape strays from size, place
    and angle of the plain drawing.
    """
    chosen = kinds or rng.sample(KINDS, 2 if rng.random() < TWO_SHAPES_SHARE * variety else 1)
    shapes = [_sample_shape(rng, kind, alone=len(chosen) == 1) for kind in chosen]
    while _overlap(shapes):
        shapes = [_sample_shape(rng, kind, alone=False) for kind in chosen]
    if len(shapes) == 1:
        shapes = [_nearer_to_plain(shapes[0], variety)]
    aspect = math.exp(rng.uniform(-0.6, 0.6)) if rng.random() < 0.5 else 1.0
    return Scene(tuple(shapes), _sample_background(rng), aspect)


_SIZE_BANDS = ((SMALLEST, SMALL_MAX), (SMALL_MAX, LARGE_MIN), (LARGE_MIN, LARGEST))
# Small enough that two find room beside each other.
_SIZE_BANDS_OF_TWO = ((0.16, 0.42),)


def _sample_shape(rng: random.Random, kind: tuple[str, str], *, alone: bool) -> Shape:
    colour, form = kind
    size = rng.uniform(*rng.choice(_SIZE_BANDS if alone else _SIZE_BANDS_OF_TWO))
    reach = max(0.0, 0.5 - _outer_radius(form, size))
    if rng.random() < 0.25:
        reach = min(reach, MIDDLE_MAX_OFFSET)
    x, y = (0.5 + rng.uniform(-reach, reach) for _ in "xy")
    return Shape(colour, form, _sample_shade(rng, colour), x, y, size, rng.uniform(-20, 20))


def _nearer_to_plain(shape: Shape, variety: float) -> Shape:
    return replace(
        shape,
        x=0.5 + (shape.x - 0.5) * variety,
        y=0.5 + (shape.y - 0.5) * variety,
        size=PLAIN_SIZE + (shape.size - PLAIN_SIZE) * variety,
        angle_deg=shape.angle_deg * variety,
    )


def _sample_shade(rng: random.Random, colour: str) -> Rgb:
    one, other = rng.choices(SHADES[colour], k=2)
    return _between(one, other, rng.random(), jitter=[rng.uniform(-8, 8) for _ in range(3)])


def _between(one: Rgb, other: Rgb, share: float, jitter: Sequence[float] = (0, 0, 0)) -> Rgb:
    red, green, blue = (
        min(255, max(0, round(a + (b - a) * share + c))) for a, b, c in zip(one, other, jitter, strict=True)
    )
    return red, green, blue


def _overlap(shapes: Sequence[Shape]) -> bool:
    return any(
        math.hypot(one.x - other.x, one.y - other.y)
        < _outer_radius(one.form, one.size) + _outer_radius(other.form, other.size)
        for one, other in itertools.combinations(shapes, 2)
    )


# Darkest and lightest grey, and how far each channel may stray from it.
_BACKDROPS = ((250.0, 255.0, 20.0), (90.0, 230.0, 0.0), (0.0, 60.0, 20.0), (195.0, 250.0, 20.0))


def _sample_background(rng: random.Random) -> Background:
    """White, grey, a pastel or near black; half of them a gradient, a third with light noise."""
    darkest, lightest, max_tint = rng.choice(_BACKDROPS)
    grey = rng.uniform(darkest, lightest)
    tint = min(max_tint, 255 - grey)
    jitter = [rng.uniform(-tint, tint) for _ in range(3)]
    top = _between((0, 0, 0), (255, 255, 255), grey / 255, jitter)
    change = rng.uniform(-30, 30) if rng.random() < 0.5 else 0.0
    bottom = _between(top, top, 0, [change] * 3)
    noise_std = rng.uniform(1, 10) if rng.random() < 0.33 else 0.0
    return Background(top, bottom, noise_std, rng.randrange(2**32))
