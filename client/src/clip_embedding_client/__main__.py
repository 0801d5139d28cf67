"""`python -m worker probe | embed`: the client from the command line, with the worker's own settings."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_embedding_client.commands.embed import embed
from clip_embedding_client.commands.probe import probe
from clip_embedding_client.errors import ClipClientError, ConfigurationError
from clip_embedding_client.settings import load_settings

_WRONG_USE = 2


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command. Returns its exit status: 0, 1 if something failed, 2 if it could not begin."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options, environ)
    except ConfigurationError as error:
        print(error.message, file=sys.stderr)
        return _WRONG_USE
    except ClipClientError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'file'}: {error.strerror}", file=sys.stderr)
        return _WRONG_USE


def _run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = load_settings(environ)
    if options.command == "probe":
        return probe(settings)
    images = [*options.image, *(_urls_from(options.images_from) if options.images_from else [])]
    if not images and not options.text:
        raise ConfigurationError("nothing to embed: give --image, --images-from or --text")
    if options.out is not None:
        _require_writable(options.out)
    return embed(settings, images=images, texts=options.text, out=options.out)


def _require_writable(out: Path) -> None:
    """Before the work, not after an hour of it."""
    if out.suffix not in (".npy", ".jsonl"):
        raise ConfigurationError("--out must end in .npy or .jsonl")
    out.open("ab").close()


def _urls_from(name: str) -> list[str]:
    text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Ask the CLIP embedding service.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("probe", help="check every configured backend; exit status 1 if one is down or they differ")
    asked = commands.add_parser("embed", help="embed images and texts; one JSON line each")
    asked.add_argument("--image", nargs="+", action="extend", default=[], metavar="URL")
    asked.add_argument("--images-from", metavar="FILE", help="one URL a line; - is standard input")
    asked.add_argument("--text", nargs="+", action="extend", default=[], metavar="TEXT")
    asked.add_argument("--out", type=Path, metavar="FILE", help="vectors.npy or rows.jsonl instead of standard output")
    return parser


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.exit(main(sys.argv[1:], os.environ))
