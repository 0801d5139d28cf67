"""Checkouts beside each other: "this commit against the commit before" is one run, with its rows in alternation.

A busy or slow moment of the machine then meets both. Knows where the code lies, not what is measured.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.workload import ROOT


@dataclass(frozen=True, slots=True)
class Tree:
    """A checkout of this project; what runs with its `folder` as working directory imports its code, and has the
    `variables` in its environment.
    """

    label: str
    folder: Path
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def settings(self) -> Mapping[str, str]:
        """A cache of its own: what one commit has exported, another may read otherwise."""
        return {"CLIP_CACHE_DIR": str(self.folder / ".cache" / "models"), **dict(self.variables)}


THIS = Tree("this", ROOT)
OTHER = "against"


def trees(against: Path | None) -> tuple[Tree, ...]:
    """This checkout and, if there is one, the one it is held against."""
    return (THIS,) if against is None else (THIS, Tree(OTHER, against))


def in_turn(compared: Sequence[Tree], rounds: int) -> Iterator[Tree]:
    """A B B A A B ...: each of them `rounds` times, and none always second, when the machine may have slowed down."""
    for number in range(rounds):
        yield from compared if number % 2 == 0 else reversed(compared)


def add_against(parser: argparse.ArgumentParser) -> None:
    """The option `--against DIR`, of type Path."""
    parser.add_argument("--against", type=_checkout, metavar="DIR", help="another checkout, measured in alternation")


def _checkout(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / "pod" / "wsgi.py").is_file():
        raise argparse.ArgumentTypeError(f"{folder} is no checkout of this project")
    return folder
