"""What a command line names, one by one: URLs, files, folders of images, lines of a list, texts. Asks no service."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from clip_embedding_client.commands.usage import WrongUse

# What the service decodes; a folder holds other things too. A file that is named is sent whatever its name.
IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"})
STANDARD_INPUT = "-"

# A byte-order mark is no part of the first line. Bytes that are not UTF-8 may be a path; as anything else they fail
# for their own line only.
_ENCODING = "utf-8-sig"
_ENCODING_ERRORS = "surrogateescape"


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to embed. `label` names it in messages without its text or URL, which may be private."""

    kind: str
    value: str
    index: int

    @property
    def label(self) -> str:
        return f"{self.kind} {self.index}"


@dataclass(frozen=True, slots=True)
class Sources:
    """All that is to be embedded, as the command line has it. Images come first."""

    image: Sequence[str]
    images_from: str | None
    text: Sequence[str]
    texts_from: str | None

    def check(self) -> None:
        """Raise `WrongUse` or `OSError` for what cannot be read, before anything is sent."""
        lists = [name for name in (self.images_from, self.texts_from) if name is not None]
        if not self.image and not self.text and not lists:
            raise WrongUse("nothing to embed: give --image, --images-from, --text or --texts-from")
        if lists.count(STANDARD_INPUT) > 1:
            raise WrongUse("standard input can be --images-from or --texts-from, not both")
        for name in lists:
            # Not opened: what a pipe gives can be read once.
            if name != STANDARD_INPUT and not os.access(name, os.R_OK):
                missing = errno.EACCES if os.path.exists(name) else errno.ENOENT
                raise OSError(missing, os.strerror(missing), name)

    def images(self) -> Iterator[Input]:
        """Yield them as they are read: folders are walked, lists are not held."""
        values = (value for each in self._image_names() for value in image_values(each))
        for index, value in enumerate(values):
            yield Input("image", value, index)

    def texts(self) -> Iterator[Input]:
        for index, value in enumerate(self._text_values()):
            yield Input("text", value, index)

    def total(self) -> int | None:
        """How many there are, or None if they cannot be read twice."""
        lists = [name for name in (self.images_from, self.texts_from) if name is not None]
        if not all(os.path.isfile(name) for name in lists):
            return None
        return sum(1 for _ in self.images()) + sum(1 for _ in self.texts())

    def _image_names(self) -> Iterator[str]:
        yield from self.image
        if self.images_from is not None:
            yield from map(str.strip, _lines(self.images_from))

    def _text_values(self) -> Iterator[str]:
        yield from self.text
        if self.texts_from is not None:
            yield from _lines(self.texts_from)


def is_url(value: str) -> bool:
    """Whether the service downloads it; everything else is a file of this machine."""
    return value.lower().startswith(("http://", "https://"))


def image_source(value: str) -> str | Path:
    """Return what the client takes for it."""
    return value if is_url(value) else Path(value)


def image_values(name: str) -> Iterator[str]:
    """Yield the URL or path itself, or the images of a folder and of all below it, sorted. Raises `WrongUse`."""
    if is_url(name) or not os.path.isdir(name):
        yield name
        return
    found = False
    for folder, below, files in os.walk(name, onerror=_raise):
        below.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                found = True
                yield os.path.join(folder, file)
    if not found:
        raise WrongUse(f"{name}: no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")


def storable(value: str) -> str:
    """Return the input as a file of rows holds it: a path may have bytes that are no text."""
    return value.encode("utf-8", "surrogateescape" if _is_escaped(value) else "replace").decode("utf-8", "replace")


def _is_escaped(value: str) -> bool:
    """Whether all of its surrogates stand for bytes."""
    return all("\udc80" <= character <= "\udcff" for character in value if "\ud800" <= character <= "\udfff")


def _lines(name: str) -> Iterator[str]:
    """Yield the lines that are not blank, without their ends."""
    source = sys.stdin.fileno() if name == STANDARD_INPUT else name
    closes = name != STANDARD_INPUT
    with open(source, encoding=_ENCODING, errors=_ENCODING_ERRORS, closefd=closes) as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n")


def _raise(error: OSError) -> NoReturn:
    raise error
