"""`clip-embed embed`: any number of images and texts to rows, which are written as they come."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from tqdm import tqdm

from clip_embedding_client.client import ClipClient
from clip_embedding_client.commands.events import log_event
from clip_embedding_client.commands.inputs import Input, Sources, image_source
from clip_embedding_client.commands.interruption import Interrupted, Signals, interruptible
from clip_embedding_client.commands.rows import Row, is_of, row_of
from clip_embedding_client.commands.sinks import Sink, open_sink
from clip_embedding_client.commands.usage import WrongUse, positive
from clip_embedding_client.errors import ClipClientError, FingerprintMismatch
from clip_embedding_client.fingerprints import why_they_differ
from clip_embedding_client.settings import ClientSettings
from clip_embedding_client.values import Outcome

if TYPE_CHECKING:
    Bar = tqdm[NoReturn]

Sent = TypeVar("Sent")

_DESCRIPTION = """Embed images and texts: one row for each, images first, in the order in which they were given.

Rows are written as they come, and few are held: a million inputs need little memory. Every row of .jsonl and .parquet
has the input itself (a URL with its query, a path, a text), the fingerprint of the model and the vector, or the error.
In .npy a failed input is a row of NaN."""

_EPILOG = """exit status: 0; 1 if inputs failed (each is named on standard error by its number) or the service changed
its model, 2 for wrong use, 130 or 143 if it was interrupted"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser = commands.add_parser(
        "embed",
        help="embed images and texts into a file or into JSON lines",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--image", nargs="+", action="extend", default=[], metavar="X", help="URL, file, or folder of images")
    add("--images-from", metavar="FILE", help="a list of such, one a line; - is standard input")
    add("--text", nargs="+", action="extend", default=[], metavar="TEXT")
    add("--texts-from", metavar="FILE", help="texts, one a line; - is standard input")
    add("--out", type=Path, metavar="FILE", help="rows.jsonl, rows.parquet or vectors.npy; otherwise JSON lines")
    add("--resume", action="store_true", help="go on after the rows that are in --out (.jsonl, .parquet)")
    add("--limit-errors", type=positive, metavar="N", help="stop when so many inputs have failed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Embed what the options name. Returns the exit status. Raises `WrongUse`, `OSError` and `ClipClientError`."""
    settings = ClientSettings.from_environ(environ)
    sources = Sources(options.image, options.images_from, options.text, options.texts_from)
    sources.check()
    return embed(settings, sources, out=options.out, resume=options.resume, most_errors=options.limit_errors)


def embed(
    settings: ClientSettings,
    sources: Sources,
    *,
    out: Path | None = None,
    resume: bool = False,
    most_errors: int | None = None,
) -> int:
    """Write one row per input. Returns 1 if any failed, each of which is a line on standard error."""
    with interruptible() as signals:
        sink = open_sink(out, resume=resume)
        signals.keep = sink.close
        embedding = _Run(settings, sink, signals, most_errors)
        try:
            with closing(_Held(sink, signals)):
                embedding.embed(sources.images(), sources.texts(), sources.total)
        except Interrupted as interrupted:
            rest = "; --resume goes on after them" if sink.resumable else ""
            print(f"interrupted: {embedding.rows:,} rows are in {sink.place}{rest}", file=sys.stderr)
            return interrupted.status
    return 1 if embedding.failures else 0


@dataclass(slots=True)
class _Held:
    """Closes the sink, whatever comes in meanwhile."""

    sink: Sink
    signals: Signals

    def close(self) -> None:
        with self.signals.held():
            self.sink.close()


@dataclass(slots=True)
class _Run:
    """One run of the command. `rows` are all in the sink, of this run and the one that it goes on with."""

    settings: ClientSettings
    sink: Sink
    signals: Signals
    most_errors: int | None
    rows: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    fingerprint: str | None = field(default=None, init=False)

    def embed(self, images: Iterator[Input], texts: Iterator[Input], total: Callable[[], int | None]) -> None:
        """Do it all; what the sink has got stays there, whatever is raised."""
        self._skip(images, texts)
        with (
            ClipClient(self.settings, on_event=log_event) as client,
            self._bar(total) as bar,
            closing(_outcomes(client, images, texts)) as outcomes,
        ):
            for given, outcome in outcomes:
                self._take(given, outcome, bar)
                if self.most_errors is not None and self.failures >= self.most_errors:
                    bar.write(f"stopped: {self.failures:,} inputs have failed", file=sys.stderr)
                    return
        with self.signals.held():
            self.sink.finish()

    def _skip(self, images: Iterator[Input], texts: Iterator[Input]) -> None:
        """Pass over the inputs of the rows that are there. Raises `WrongUse` if they are of others."""
        for row in self.sink.rows_there():
            given = next(images, None) or next(texts, None)
            if given is None or not is_of(row, given):
                raise WrongUse(f"{self.sink.place}: row {self.rows} is of another input: --resume needs the same ones")
            self._check_model(row)
            self.rows += 1

    def _take(self, given: Input, outcome: Outcome, bar: Bar) -> None:
        row = row_of(given, outcome)
        self._check_model(row)
        with self.signals.held():
            self.sink.write(row)
            self.rows += 1
        bar.update()
        if isinstance(outcome, ClipClientError):
            self.failures += 1
            bar.write(f"{given.label}: {outcome}", file=sys.stderr)

    def _check_model(self, row: Row) -> None:
        """Raise `FingerprintMismatch` for the vector of a second model: searched together, both would be wrong."""
        fingerprint = row.get("fingerprint")
        if fingerprint is None or self.settings.clip_allow_fingerprint_mismatch:
            return
        if self.fingerprint not in (None, fingerprint):
            raise FingerprintMismatch(
                f"the rows so far have fingerprint {self.fingerprint}, the next one {fingerprint}: not written"
                f"{why_they_differ(str(self.fingerprint), fingerprint, None)}"
            )
        self.fingerprint = fingerprint

    def _bar(self, total: Callable[[], int | None]) -> Bar:
        """On a terminal only; inputs are counted for nobody else."""
        seen = sys.stderr.isatty()
        return tqdm(total=total() if seen else None, initial=self.rows, unit="item", file=sys.stderr, disable=not seen)


def _outcomes(
    client: ClipClient, images: Iterator[Input], texts: Iterator[Input]
) -> Generator[tuple[Input, Outcome], None, None]:
    yield from _paired(images, lambda given: image_source(given.value), client.iter_images)
    yield from _paired(texts, lambda given: given.value, client.iter_texts)


def _paired(
    inputs: Iterator[Input],
    source: Callable[[Input], Sent],
    embed: Callable[[Iterable[Sent]], Iterator[Outcome]],
) -> Iterator[tuple[Input, Outcome]]:
    """Yield each input with its outcome; only those that are on their way are held."""
    sent = deque[Input]()

    def sources() -> Iterator[Sent]:
        for given in inputs:
            sent.append(given)
            yield source(given)

    for outcome in embed(sources()):
        yield sent.popleft(), outcome
