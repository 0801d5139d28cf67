"""The code blocks of a document, and what a reader does with each: it is said in the fence, behind the language.

sh                  run in the reader's shell
sh until=URL        started in a terminal of its own, and left there once the URL answers
python              run with the interpreter of .venv, in the environment of that shell
sh ci|docker|…      not run here, nor is python with such a word; `NOT_RUN` says why
json, or nothing    only read
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from markdown_it import MarkdownIt

# Each names what the block needs and this machine may not have.
NOT_RUN: Mapping[str, str] = {
    "ci": "continuous integration runs it by itself",
    "docker": "needs Docker",
    "account": "needs a RunPod account",
    "cluster": "needs a cluster, of Kubernetes or of Ray",
    "data": "needs vectors of the system before",
    "postgres": "needs a PostgreSQL with pgvector; tests/bulk/test_loading.py runs it on one",
    "pictures": "needs pictures of one's own, and half an hour",
    "buildah": "needs root, buildah and debootstrap",
}

_UNTIL = "until="
_READ = ("", "json", "yaml")


class Doing(Enum):
    """What is done with a block."""

    RUN = "run"
    START = "start"
    SKIP = "skip"
    READ = "read"


class UnknownFence(Exception):
    """A block says something that nobody acts on; the message names the place."""


@dataclass(frozen=True, slots=True)
class Block:
    """`detail` is the URL to wait for, or why it is not run."""

    place: str
    language: str
    text: str
    doing: Doing
    detail: str = ""


def blocks_of(document: str, name: str) -> Iterator[Block]:
    """Yield the blocks in order. Raises `UnknownFence`, also for blocks that are indented: those say nothing."""
    for token in MarkdownIt().parse(document):
        if token.type not in ("fence", "code_block"):
            continue
        place = f"{name}:{token.map[0] + 1 if token.map else 0}"
        if token.type == "code_block":
            raise UnknownFence(f"{place}: an indented block; give it a fence that says what it is")
        yield _block(place, token.info.split(), token.content)


def _block(place: str, info: list[str], text: str) -> Block:
    language, *words = info or [""]
    if language in _READ and not words:
        if language == "json":
            _parsed(place, text)
        return Block(place, language, text, Doing.READ)
    match words if language in ("sh", "python") else None:
        case []:
            return Block(place, language, text, Doing.RUN)
        case [word] if word in NOT_RUN:
            return Block(place, language, text, Doing.SKIP, NOT_RUN[word])
        case [word] if word.startswith(_UNTIL) and language == "sh":
            return Block(place, language, text, Doing.START, word.removeprefix(_UNTIL))
    raise UnknownFence(f"{place}: {' '.join(info)} is no fence of docs-check")


def _parsed(place: str, text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise UnknownFence(f"{place}: {error}") from error
