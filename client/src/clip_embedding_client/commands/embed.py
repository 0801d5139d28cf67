"""`python -m worker embed`: images and texts to vectors, as JSON lines or as a file."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np
from tqdm import tqdm

from clip_embedding_client.client import ClipClient, create_clip_client
from clip_embedding_client.errors import ClipClientError
from clip_embedding_client.settings import WorkerSettings
from clip_embedding_client.values import Embedding

# Below this many inputs a progress bar is only noise.
_MANY = 20


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to embed. `label` names it in messages without its text or URL, which may be private."""

    kind: str
    value: str
    index: int

    @property
    def label(self) -> str:
        return f"{self.kind} {self.index}"


Pair = tuple[Input, Embedding | ClipClientError]


def embed(settings: WorkerSettings, *, images: Sequence[str], texts: Sequence[str], out: Path | None) -> int:
    """Write one row per input, images first, in order. Returns 1 if any failed; failures go to standard error."""
    image_inputs = [Input("image", url, index) for index, url in enumerate(images)]
    text_inputs = [Input("text", text, index) for index, text in enumerate(texts)]
    with create_clip_client(settings) as client, _bar(len(images) + len(texts)) as bar:
        results: list[Embedding | ClipClientError] = []
        if images:
            results += client.embed_images(images, on_progress=lambda done, _total: bar.update(done - bar.n))
        for text in texts:
            results.append(_embed_text(client, text))
            bar.update()
    pairs = list(zip([*image_inputs, *text_inputs], results, strict=True))
    _write(pairs, out)
    failures = [(given, result) for given, result in pairs if isinstance(result, ClipClientError)]
    for given, error in failures:
        print(f"{given.label}: {error}", file=sys.stderr)
    return 1 if failures else 0


def _embed_text(client: ClipClient, text: str) -> Embedding | ClipClientError:
    try:
        return client.embed_text(text)
    except ClipClientError as error:
        return error


def _bar(total: int) -> "tqdm[NoReturn]":
    return tqdm(total=total, unit="item", file=sys.stderr, disable=total < _MANY)


def _write(pairs: Sequence[Pair], out: Path | None) -> None:
    if out is not None and out.suffix == ".npy":
        np.save(out, _matrix([result for _, result in pairs]), allow_pickle=False)
        return
    with _lines_to(out) as file:
        for given, result in pairs:
            file.write(json.dumps(_row(given, result)) + "\n")


@contextmanager
def _lines_to(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    with out.open("w") as file:
        yield file


def _matrix(results: Sequence[Embedding | ClipClientError]) -> "np.typing.NDArray[np.float32]":
    """One float32 row per input, (n, dim). A failed input is a row of NaN: the others keep their places."""
    vectors = [result.vector if isinstance(result, Embedding) else None for result in results]
    dim = next((vector.shape[0] for vector in vectors if vector is not None), 0)
    missing = np.full(dim, np.nan, dtype=np.float32)
    return np.array([missing if vector is None else vector for vector in vectors], dtype=np.float32)


def _row(given: Input, result: Embedding | ClipClientError) -> dict[str, object]:
    place: dict[str, object] = {"kind": given.kind, "index": given.index, "request_id": result.request_id}
    if isinstance(result, ClipClientError):
        return place | {"error": {"code": result.code, "message": result.message, "retryable": result.retryable}}
    return place | {
        "embedding": result.vector.tolist(),
        "dim": result.vector.shape[0],
        "normalized": result.normalized,
        "truncated": result.truncated,
        "fingerprint": result.fingerprint,
        "backend": result.backend,
    }
