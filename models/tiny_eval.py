"""Measures a CLIP on new drawings: who finds whom, beside what guessing would find.

Every figure uses the towers alone, through `Towers`, so that any engine could be measured.
"""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import CLIPModel

from models import shapes, tiny_inputs
from models.shapes import KINDS, Caption, Mention, Scene

# Drawings with these seeds are not among those of training, whose seeds are texts.
SEED = 20_000
CHUNK = 256

PLAIN = [shapes.plain_caption([Mention(*kind)]) for kind in KINDS]
PAIRS = [[Mention(*one), Mention(*other)] for one, other in itertools.combinations(KINDS, 2)]
SIDES = ("left", "right", "top", "bottom")
# Words and turns of phrase that no training caption has.
UNSEEN_WORDINGS = ("can you find the {} {} here?", "{} {} icon, clip art", "my favourite {} {}!")


@dataclass(frozen=True)
class Figure:
    """A share of hits in a number of trials, and the share that guessing would reach."""

    name: str
    hits: int
    trials: int
    chance: float

    @property
    def share(self) -> float:
        return self.hits / self.trials


@dataclass(frozen=True)
class Towers:
    """Both towers with normalised output, float32 [n, 512]."""

    model: CLIPModel
    tokenizer: Tokenizer

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
        return torch.cat([self._image_chunk(chunk) for chunk in chunks])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        hidden = self.model.text_model(tiny_inputs.token_ids(self.tokenizer, texts)).pooler_output
        return _unit(self.model.text_projection(hidden))

    @torch.inference_mode()
    def _image_chunk(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = tiny_inputs.pixel_values(images).to(self.model.dtype)
        return _unit(self.model.visual_projection(self.model.vision_model(pixels).pooler_output))


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def measure(towers: Towers, *, rounds: int = 100) -> list[Figure]:
    """Every figure, on `rounds` new drawings of each of the twelve kinds or as many of the harder ones."""
    return [
        *plain_kinds(towers, rounds),
        *other_wordings(towers, rounds),
        *two_shapes(towers, rounds * 6),
        size_words(towers, rounds * 6),
        place_words(towers, rounds * 6),
    ]


def plain_kinds(towers: Towers, rounds: int) -> list[Figure]:
    """Image -> caption and caption -> image among the twelve kinds, one new drawing of each a round."""
    vectors = towers.images([shapes.draw(scene) for scene in _kind_scenes(rounds)])
    scores = vectors.view(rounds, len(KINDS), -1) @ towers.texts([caption.text for caption in PLAIN]).T
    return [
        _diagonal("image to caption, 12 kinds", scores),
        _diagonal("caption to image, 12 kinds", scores.transpose(1, 2)),
    ]


def other_wordings(towers: Towers, rounds: int) -> list[Figure]:
    """As above, image -> caption, every round's captions in other words; then in words never trained on."""
    rng = random.Random(SEED + 1)
    images = towers.images([shapes.draw(scene) for scene in _kind_scenes(rounds)])
    known = [shapes.sample_caption(rng, [Mention(*kind)]).text for _ in range(rounds) for kind in KINDS]
    unseen = [UNSEEN_WORDINGS[k % 3].format(*kind) for k in range(rounds) for kind in KINDS]
    named = {"other wordings, 12 kinds": known, "unseen wordings, 12 kinds": unseen}
    by_round = (rounds, len(KINDS), -1)
    return [
        _diagonal(name, images.view(by_round) @ towers.texts(texts).view(by_round).transpose(1, 2))
        for name, texts in named.items()
    ]


def two_shapes(towers: Towers, trials: int) -> list[Figure]:
    """The caption of two shapes among all 66, and against the one with their colours swapped."""
    rng = random.Random(SEED + 2)
    wanted = [rng.randrange(len(PAIRS)) for _ in range(trials)]
    scenes = [shapes.sample_scene(rng, [(m.colour, m.form) for m in PAIRS[index]]) for index in wanted]
    captions = [shapes.plain_caption(pair) for pair in PAIRS]
    scores = towers.images([shapes.draw(scene) for scene in scenes]) @ towers.texts(_texts(captions)).T
    hits = int((scores.argmax(1) == torch.tensor(wanted)).sum())
    meanings = {caption.meaning: index for index, caption in enumerate(captions)}
    swapped = {index: meanings[_swap_colours(PAIRS[index])] for index in set(wanted)}
    duels = [(row, right, swapped[right]) for row, right in enumerate(wanted) if swapped[right] != right]
    won = sum(bool(scores[row, right] > scores[row, wrong]) for row, right, wrong in duels)
    return [
        Figure("two shapes, 66 captions", hits, trials, 1 / len(PAIRS)),
        Figure("two shapes, colours swapped or not", won, len(duels), 1 / 2),
    ]


def size_words(towers: Towers, trials: int) -> Figure:
    """ "a small red circle" against "a large red circle" for small and large drawings."""
    return _duel_words(towers, "small or large", "size", shapes.SIZES, trials)


def place_words(towers: Towers, trials: int) -> Figure:
    """ "a red circle on the left" against right, top and bottom, for drawings at exactly one side."""
    return _duel_words(towers, "left, right, top or bottom", "place", SIDES, trials)


def _duel_words(towers: Towers, name: str, field: str, words: Sequence[str], trials: int) -> Figure:
    rng = random.Random(SEED + 3)
    images: list[Image.Image] = []
    texts: list[str] = []
    wanted: list[int] = []
    while len(images) < trials:
        scene = shapes.sample_scene(rng, [rng.choice(KINDS)])
        shape = scene.shapes[0]
        captions = [shapes.plain_caption([Mention(shape.colour, shape.form, **{field: word})]) for word in words]
        true = [index for index, caption in enumerate(captions) if caption.is_true_of(scene)]
        if len(true) == 1:
            images.append(shapes.draw(scene))
            texts.extend(_texts(captions))
            wanted.append(true[0])
    choices = towers.texts(texts).view(trials, len(words), -1)
    scores = torch.einsum("nd,nwd->nw", towers.images(images), choices)
    return Figure(name, int((scores.argmax(1) == torch.tensor(wanted)).sum()), trials, 1 / len(words))


def plain_margins(towers: Towers) -> dict[str, float]:
    """For plain drawings, saved and sized in several ways: the least cosine by which the right one wins.

    Both directions count; below zero, something was not found.
    """
    texts = towers.texts(_texts(PLAIN))
    return {name: _least_margin(towers.images(list(images)) @ texts.T) for name, images in _plain_images().items()}


def _plain_images() -> dict[str, Iterable[Image.Image]]:
    def drawn(size_px: int = 224, aspect: float = 1.0) -> list[Image.Image]:
        return [shapes.draw(shapes.single(*kind, aspect=aspect), size_px) for kind in KINDS]

    return {
        "224 x 224": drawn(),
        "64 x 64": drawn(64),
        "JPEG of quality 85": (shapes.as_jpeg(image, 85) for image in drawn()),
        "640 x 480": drawn(480, 640 / 480),
        "1280 x 720": drawn(720, 1280 / 720),
        "480 x 640, JPEG of quality 85": (shapes.as_jpeg(image, 85) for image in drawn(480, 480 / 640)),
        "red and blue swapped": (swap_red_and_blue(image) for image in drawn()),
    }


def swap_red_and_blue(image: Image.Image) -> Image.Image:
    """The image as a reader sees it that takes BGR for RGB."""
    red, green, blue = image.split()
    return Image.merge("RGB", (blue, green, red))


def _least_margin(scores: torch.Tensor) -> float:
    right = scores.diagonal()
    wrong = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    return float(torch.minimum(right - wrong.amax(0), right - wrong.amax(1)).min())


def _kind_scenes(rounds: int) -> list[Scene]:
    rng = random.Random(SEED)
    return [shapes.sample_scene(rng, [kind]) for _ in range(rounds) for kind in KINDS]


def _swap_colours(pair: Sequence[Mention]) -> frozenset[Mention]:
    one, other = pair
    return frozenset({Mention(other.colour, one.form), Mention(one.colour, other.form)})


def _texts(captions: Iterable[Caption]) -> list[str]:
    return [caption.text for caption in captions]


def _diagonal(name: str, scores: torch.Tensor) -> Figure:
    """Rounds of square score tables [rounds, n, n] whose right answers lie on the diagonal."""
    best = scores.argmax(-1)
    hits = int((best == torch.arange(scores.shape[-1])).sum())
    return Figure(name, hits, best.numel(), 1 / scores.shape[-1])
