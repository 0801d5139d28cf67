"""`clip-embed search`: which stored vectors are most like a text or an image?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_embedding_client.client import ClipClient
from clip_embedding_client.commands.events import log_event
from clip_embedding_client.commands.inputs import image_source
from clip_embedding_client.commands.stored import Block, Matrix, Place, read_blocks
from clip_embedding_client.commands.table import format_table
from clip_embedding_client.commands.usage import WrongUse, positive
from clip_embedding_client.errors import FingerprintMismatch, printable
from clip_embedding_client.fingerprints import why_they_differ
from clip_embedding_client.settings import ClientSettings
from clip_embedding_client.values import Embedding, Vector

_TOP = 10
_MAX_SHOWN_CHARACTERS = 200

_DESCRIPTION = """Embed a text or an image and print the stored vectors that are most like it, by cosine, best first.

The file is what clip-embed embed has written, a finished run's or an interrupted one's; it is read in blocks. Vectors
of another model than the service's are refused where the file names it (.jsonl, .parquet)."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One stored vector: `row` is its number in the file, from 0; `score` is the cosine, from -1 to 1."""

    score: float
    row: int
    place: Place


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser = commands.add_parser(
        "search",
        help="print the stored vectors that are most like a text or an image",
        description=_DESCRIPTION,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", metavar="TEXT")
    query.add_argument("--image", metavar="X", help="URL or file")
    parser.add_argument(
        "--vectors", type=Path, required=True, metavar="FILE", help="rows.jsonl, rows.parquet or vectors.npy"
    )
    parser.add_argument("--top", type=positive, default=_TOP, metavar="N", help=f"how many (default {_TOP})")
    parser.add_argument("--json", action="store_true", help="one JSON line each, with the whole input")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the best rows. Returns 0. Raises `WrongUse`, `OSError` and `ClipClientError`."""
    settings = ClientSettings.from_environ(environ)
    blocks = read_blocks(options.vectors)
    # The file is opened with its first block: a wrong one is said before the service is asked.
    first = next(blocks, None)
    if first is None:
        raise WrongUse(f"{options.vectors}: has no rows")
    with ClipClient(settings, on_event=log_event) as client:
        if options.text is not None:
            query = client.embed_text(options.text)
        else:
            query = client.embed_image(image_source(options.image))
    checked = _checked(_chained(first, blocks), query, settings)
    hits = best(checked, query.vector, options.top)
    print("\n".join(map(_line, hits)) if options.json else _table(hits))
    return 0


def best(blocks: Iterable[Block], query: Vector, top: int) -> list[Hit]:
    """Return the `top` rows of the highest cosine, best first; of equals, the earlier. A NaN or zero row is none."""
    hits: list[Hit] = []
    first_row = 0
    for block in blocks:
        scores = _cosines(block.vectors, query)
        # Stable, as sorted() is; NaN comes last.
        order = np.argsort(-scores, kind="stable")[:top]
        hits += [
            Hit(float(scores[at]), first_row + int(at), block.places[at] if block.places else Place())
            for at in order
            if np.isfinite(scores[at])
        ]
        hits = sorted(hits, key=lambda hit: -hit.score)[:top]
        first_row += len(block.vectors)
    return hits


def _cosines(vectors: Matrix, query: Vector) -> Matrix:
    """(n,) float32, NaN for rows that have no direction. Raises `WrongUse` for vectors of another length."""
    if vectors.shape[1] == 0:
        return np.full(len(vectors), np.nan, dtype=np.float32)
    if vectors.shape[1:] != query.shape:
        raise WrongUse(f"the vectors have {vectors.shape[1]} numbers, the query's {query.shape[0]}")
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines: Matrix = (vectors @ query) / lengths
    return cosines


def _chained(first: Block, rest: Iterator[Block]) -> Iterator[Block]:
    yield first
    yield from rest


def _checked(blocks: Iterable[Block], query: Embedding, settings: ClientSettings) -> Iterator[Block]:
    """Raise `FingerprintMismatch` for a block with vectors of another model."""
    for block in blocks:
        others = sorted(block.fingerprints - {query.fingerprint})
        if others and not settings.clip_allow_fingerprint_mismatch:
            raise FingerprintMismatch(
                f"the stored vectors have fingerprint {others[0]}, the query's {query.fingerprint}: they cannot be"
                f" compared{why_they_differ(others[0], query.fingerprint, None)}"
            )
        yield block


def _line(hit: Hit) -> str:
    return json.dumps({"score": hit.score, "row": hit.row, "kind": hit.place.kind, "input": hit.place.input})


def _table(hits: Iterable[Hit]) -> str:
    rows = [("SCORE", "ROW", "INPUT")]
    rows += [
        (f"{hit.score:.4f}", str(hit.row), printable(hit.place.input or "-", _MAX_SHOWN_CHARACTERS)) for hit in hits
    ]
    return format_table(rows)
