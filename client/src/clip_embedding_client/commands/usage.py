"""What a command says when it was called with what cannot be."""

from __future__ import annotations

import argparse


class WrongUse(Exception):
    """The arguments, or the files that they name, do not fit; the message is one line. Exit status 2."""


def positive(value: str) -> int:
    """Read a whole number, at least 1, for argparse."""
    if not (value.isascii() and value.isdigit()) or int(value) == 0:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return int(value)
