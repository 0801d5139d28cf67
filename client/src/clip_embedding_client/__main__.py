"""`clip-embed`, or `python -m clip_embedding_client`: the client from the command line, with the client's settings."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from clip_embedding_client.commands import embed, probe, search, smoke
from clip_embedding_client.commands.interruption import Interrupted
from clip_embedding_client.commands.usage import WrongUse
from clip_embedding_client.errors import ClipClientError, ConfigurationError

_FAILED = 1
_WRONG_USE = 2
_INTERRUPTED = 130

_DESCRIPTION = "Ask a CLIP embedding service."
_EPILOG = """settings are environment variables:
  CLIP_INFERENCE_BACKEND   runpod_pod, runpod_serverless, local or off
  CLIP_FALLBACK_BACKEND    who answers when the first one cannot
  EMBEDDING_HMAC_SECRET    the service's secret
  CLIP_POD_BASE_URL        for runpod_pod
  RUNPOD_API_KEY, RUNPOD_CLIP_ENDPOINT_ID   for runpod_serverless"""


def run() -> NoReturn:
    """Run the command that this process was started with, and exit."""
    options = _parser().parse_args(sys.argv[1:])
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        status = _perform(options, os.environ)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough (head). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _FAILED
    sys.exit(status)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command. Returns its exit status: 0, 1 if something failed, 2 if it could not begin.

    Raises `BrokenPipeError`, and `SystemExit` for what argparse says itself.
    """
    return _perform(_parser().parse_args(arguments), environ)


def _perform(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    try:
        status: int = options.run(options, environ)
    except (ConfigurationError, WrongUse) as error:
        print(error.message if isinstance(error, ConfigurationError) else error, file=sys.stderr)
        return _WRONG_USE
    except ClipClientError as error:
        print(error, file=sys.stderr)
        return _FAILED
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"{error.filename or 'file'}: {error.strerror}", file=sys.stderr)
        return _WRONG_USE
    except KeyboardInterrupt as error:
        return error.status if isinstance(error, Interrupted) else _INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clip-embed",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-v", "--verbose", action="store_true", help="say more on standard error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (embed, search, probe, smoke):
        command.add_parser(commands, common)
    return parser


if __name__ == "__main__":
    run()
