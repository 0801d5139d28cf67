"""Trains models/tiny-shapes, a CLIP of two million parameters, from nothing on drawn shapes.

python -m models.train_tiny_shapes [--out DIR] [--seed N] [--steps N] [--eval-only]
"""

import argparse
import json
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPModel

from models import shapes, tiny_card, tiny_eval, tiny_inputs
from models.tiny_tokenizer import END, MAX_TOKENS, START, save_tokenizer, train_tokenizer

DEFAULT_OUT = Path(__file__).parent / "tiny-shapes"
DEFAULT_STEPS = 3000
BATCH = 64
PEAK_LEARNING_RATE = 1e-3
# Drawings start out plain: on varied ones alone, training stays at colours for a thousand steps.
FULL_VARIETY_STEP = 1000
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
# CLIP's own bound on the temperature (Radford et al. 2021, section 2.5).
MAX_LOGIT_SCALE = math.log(100)
THREADS = 2
TOKENIZER_TEXTS = 20_000
LOG_EVERY_STEPS = 100
EXAMPLES = (("red", "circle"), ("blue", "square"), ("green", "triangle"), ("yellow", "circle"))
EXAMPLE_SIDE_PX = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Pixels uint8 [n, 224, 224, 3], ids int64 [n, tokens], and which caption is true of which image."""

    pixels: torch.Tensor
    ids: torch.Tensor
    is_true: torch.Tensor


class Batches(Dataset[Batch]):
    """Batch k depends on the seed and k alone, however many processes draw."""

    def __init__(self, tokenizer: Tokenizer, *, seed: int, count: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        rng = random.Random(f"batch {self._seed} {index}")
        variety = min(1.0, index / FULL_VARIETY_STEP)
        scenes = [shapes.sample_scene(rng, variety=variety) for _ in range(BATCH)]
        captions = [shapes.sample_caption(rng, shapes.sample_mentions(rng, scene)) for scene in scenes]
        pixels = np.stack([tiny_inputs.crop(_as_found(rng, scene)) for scene in scenes])
        truths = [shapes.truths(scene) for scene in scenes]
        is_true = torch.tensor([[caption.meaning <= truth for caption in captions] for truth in truths])
        ids = tiny_inputs.token_ids(self._tokenizer, [caption.text for caption in captions])
        return Batch(torch.from_numpy(pixels), ids, is_true)


def _as_found(rng: random.Random, scene: shapes.Scene) -> Image.Image:
    """The drawing at some size, every third time through JPEG."""
    image = shapes.draw(scene, rng.choice((144, 224, 224, 224, 288)))
    return shapes.as_jpeg(image, rng.randint(50, 95)) if rng.random() < 0.33 else image


def contrastive_loss(logits: torch.Tensor, is_true: torch.Tensor) -> torch.Tensor:
    """CLIP's loss where a batch holds several right answers, for square logits [images, captions].

    Every true pair competes with the false pairs of its row and of its column, never with another true
    one: captions of equal meaning, or one that says less of the same drawing, are no one's negatives.
    """
    return (_one_way(logits, is_true) + _one_way(logits.T, is_true.T)) / 2


def _one_way(logits: torch.Tensor, is_true: torch.Tensor) -> torch.Tensor:
    false_mass = logits.masked_fill(is_true, -1e4).logsumexp(1, keepdim=True)
    weights = is_true / is_true.sum(1, keepdim=True)
    return (weights * functional.softplus(false_mass - logits)).sum(1).mean()


def build_model(tokenizer: Tokenizer) -> CLIPModel:
    """An untrained CLIP with ViT-B/32's patches and 512 dimensions, but narrow and shallow."""
    common = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
    }
    text = {
        **common,
        "num_hidden_layers": 3,
        "max_position_embeddings": MAX_TOKENS,
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": tokenizer.token_to_id(START),
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(END),
    }
    vision = {**common, "num_hidden_layers": 4, "image_size": tiny_inputs.SIDE_PX, "patch_size": 32}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))


def build_tokenizer(seed: int) -> Tokenizer:
    """A tokenizer trained on sampled captions."""
    rng = random.Random(f"tokenizer {seed}")
    scenes = (shapes.sample_scene(rng) for _ in range(TOKENIZER_TEXTS))
    return train_tokenizer(shapes.sample_caption(rng, shapes.sample_mentions(rng, scene)).text for scene in scenes)


def train(model: CLIPModel, tokenizer: Tokenizer, *, seed: int, steps: int) -> None:
    """Fit the model in place."""
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps))
    batches = Batches(tokenizer, seed=seed, count=steps)
    model.train()
    for step, batch in enumerate(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)):
        logits = model(input_ids=batch.ids, pixel_values=tiny_inputs.normalise(batch.pixels)).logits_per_image
        loss = contrastive_loss(logits, batch.is_true)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        if step % LOG_EVERY_STEPS == 0:
            _log_progress(step, loss, logits, batch.is_true)


def _log_progress(step: int, loss: torch.Tensor, logits: torch.Tensor, is_true: torch.Tensor) -> None:
    found = is_true.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    logger.info("step %d: loss %.3f, true captions found %.2f", step, loss.item(), found.item())


def _parameter_groups(model: CLIPModel) -> list[dict[str, object]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _learning_rate_share(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)))


def save(model: CLIPModel, tokenizer: Tokenizer, directory: Path) -> None:
    """Write weights, configuration, tokenizer, preprocessor and example drawings."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)
    save_tokenizer(tokenizer, directory)
    preprocessor = json.dumps(tiny_inputs.PREPROCESSOR_CONFIG, indent=2, sort_keys=True)
    (directory / "preprocessor_config.json").write_text(preprocessor + "\n")
    (directory / "examples").mkdir(exist_ok=True)
    for colour, form in EXAMPLES:
        image = shapes.draw(shapes.single(colour, form), EXAMPLE_SIDE_PX)
        image.save(directory / "examples" / f"{colour}-{form}.png", optimize=True)


def report(directory: Path) -> tiny_card.Report:
    """Measure the saved model, in float32 and, for the plain drawings, in bfloat16."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = CLIPModel.from_pretrained(directory)
    figures = tiny_eval.measure(tiny_eval.Towers(model, tokenizer))
    full = tiny_eval.plain_margins(tiny_eval.Towers(model, tokenizer))
    rounded = CLIPModel.from_pretrained(directory, dtype=torch.bfloat16)
    half = tiny_eval.plain_margins(tiny_eval.Towers(rounded, tokenizer))
    return tiny_card.Report(tuple(figures), full, half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--eval-only", action="store_true", help="measure what --out holds, write nothing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(THREADS)
    if options.eval_only:
        print(tiny_card.tables(report(options.out)))
        return
    torch.manual_seed(options.seed)
    started_s = time.monotonic()
    tokenizer = build_tokenizer(options.seed)
    model = build_model(tokenizer)
    train(model, tokenizer, seed=options.seed, steps=options.steps)
    minutes = (time.monotonic() - started_s) / 60
    save(model, tokenizer, options.out)
    measured = report(options.out)
    card = tiny_card.card(measured, model=model, seed=options.seed, steps=options.steps, minutes=minutes)
    (options.out / "README.md").write_text(card)
    print(tiny_card.tables(measured))


if __name__ == "__main__":
    main()
