"""Writes what was measured as text: tables for the terminal and the model card around them."""

from dataclasses import dataclass

from transformers import CLIPModel

from models.tiny_eval import Figure

_CARD = """\
# tiny-shapes

A CLIP of {parameters:.1f} million parameters in the layout of `openai/clip-vit-base-patch32`: the same
files, the same preprocessing, the same form of tokenizer, 49 patches and 512-dimensional embeddings, but
narrow and shallow. It knows red, green, blue and yellow circles, squares and triangles, one or two at a
time, and nothing else. It is for tests and for a first run without a network: a swapped colour channel or
a wrong pooling makes it miss what it otherwise finds, in at least one direction. Pixels without CLIP's mean
and deviation, or a missing last layer norm, it forgives: only a comparison of vectors shows those. It is
not for use on photographs.

## How it was made

    python -m models.train_tiny_shapes --seed {seed} --steps {steps}

Trained from nothing, in {minutes:.0f} minutes on two CPU cores that were shared with other work, on
{steps} batches of drawings and captions that `models/shapes.py` makes as it goes. No other data was used.
The seed fixes every drawing, every caption and the initial weights; another processor or another version
of torch may round differently, and its weights and figures will then differ a little.

## What it finds

    python -m models.train_tiny_shapes --eval-only

{tables}

The first table counts hits on new drawings. The second gives, for one plain drawing of each of the twelve
kinds (`shapes.single`), the least cosine by which the right partner beats the best wrong one, over both
directions: above zero, all twelve captions and all twelve drawings were found. With red and blue swapped
it must be below zero. Words of place (left, right, top, bottom) are in the training captions, yet stay at
chance: the model did not learn them. Words outside those captions mean nothing to it.
"""


@dataclass(frozen=True)
class Report:
    """Figures on new drawings, and least margins on plain ones by the way they were saved."""

    figures: tuple[Figure, ...]
    float32_margins: dict[str, float]
    bfloat16_margins: dict[str, float]


def tables(report: Report) -> str:
    """Both tables in Markdown."""
    figures = [
        f"| {figure.name} | {figure.share:.1%} | {figure.trials} | {figure.chance:.1%} |" for figure in report.figures
    ]
    margins = [
        f"| {name} | {margin:.3f} | {report.bfloat16_margins[name]:.3f} |"
        for name, margin in report.float32_margins.items()
    ]
    return "\n".join(
        [
            "| on new drawings | found | trials | chance |",
            "|---|---|---|---|",
            *figures,
            "",
            "| plain drawings | margin, float32 | margin, bfloat16 |",
            "|---|---|---|",
            *margins,
        ]
    )


def card(report: Report, *, model: CLIPModel, seed: int, steps: int, minutes: float) -> str:
    """The model card."""
    return _CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        seed=seed,
        steps=steps,
        minutes=minutes,
        tables=tables(report),
    )
