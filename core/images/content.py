"""Images that came inside a request: from base64 to bytes in a file without a name, which image processes can open.

The file is in memory, and one for all images of a request; a process that has its descriptor reads it and cannot change
it. Nothing here looks at what the bytes mean.
"""

import binascii
import fcntl
import hashlib
import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from core.byte_budget import ByteBudget, Lease
from core.errors import ImageTooLarge, InvalidImage, Overloaded, ServiceError

# Of base64, a multiple of four. Decoding holds the interpreter's lock: this much for half a millisecond.
_PIECE_CHARACTERS = 262_144

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Pieces(Protocol):
    """Long base64 that is not in one `str`; each piece but the last has a multiple of four characters."""

    def pieces(self) -> Iterator[memoryview]: ...


@dataclass(frozen=True, slots=True)
class Content:
    """Where an image's bytes are: `size` of them from `offset` on, in the file of its request."""

    file: "SentImages"
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image that came with its request. `payload_id` is what its signature covers, the hex SHA-256 of the bytes; it
    is None where the text is no base64, so that there are none. Either `content` or `error` is there. `size` in bytes.
    """

    payload_id: str | None
    size: int
    content: Content | None = None
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class SentLimits:
    """`max_image_bytes` bounds one image, `budget` what all requests hold."""

    max_image_bytes: int
    budget: ByteBudget


class SentImages:
    """The images of one request, and their file; for one thread at a time. Holds nothing until an image is taken."""

    def __init__(self, limits: SentLimits) -> None:
        self._limits = limits
        self._held = ExitStack()
        self._lease: Lease | None = None
        self._descriptor = -1
        self._size = 0

    def take(self, base64: str | Pieces) -> SentImage:
        """Decode an image and keep its bytes until `close`.

        What is wrong with an image is that image's error. Raises `Overloaded` when the budget has no room.
        """
        try:
            return self._take(_decoded(base64))
        except InvalidImage as error:
            return SentImage(None, 0, error=error)

    def take_file(self, content: bytes) -> SentImage:
        """The same for an image that is not base64."""
        return self._take([content])

    def _take(self, pieces: Iterable[bytes]) -> SentImage:
        """Raises what `pieces` does, and `Overloaded`."""
        digest, size = hashlib.sha256(), 0
        offset = self._size
        for data in pieces:
            digest.update(data)
            size += len(data)
            # A larger one is read to its end all the same: its signature is checked like any other.
            if size <= self._limits.max_image_bytes:
                self._write(data)
        if size == 0:
            return SentImage(None, 0, error=InvalidImage("the image has no bytes"))
        if size > self._limits.max_image_bytes:
            too_large = ImageTooLarge(f"the image has more than {self._limits.max_image_bytes} bytes")
            return SentImage(digest.hexdigest(), size, error=too_large)
        return SentImage(digest.hexdigest(), size, Content(self, offset, size))

    def seal(self) -> None:
        """From now on nobody can change the bytes, whoever has the descriptor."""
        if self._descriptor >= 0:
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def duplicate(self) -> int:
        """A descriptor of the file, for the caller to close. Raises `OSError` when there are none left."""
        return os.dup(self._descriptor)

    def close(self) -> None:
        """Let go of the bytes; a process that has the file keeps them until it has closed it."""
        self._held.close()
        self._descriptor = -1

    def _write(self, data: bytes) -> None:
        if self._lease is None:
            self._lease = self._open()
        self._lease.add(len(data))
        unwritten = memoryview(data)
        try:
            while unwritten:
                unwritten = unwritten[os.write(self._descriptor, unwritten) :]
        except OSError as error:
            raise Overloaded from error
        self._size += len(data)

    def _open(self) -> Lease:
        try:
            self._descriptor = os.memfd_create("sent-images", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise Overloaded from error
        # Not os.close by itself: were this never closed, the descriptor would go with the object.
        self._held.callback(weakref.finalize(self, os.close, self._descriptor))
        return self._held.enter_context(self._limits.budget.lease())


def _decoded(base64: str | Pieces) -> Iterator[bytes]:
    """Raises `InvalidImage` for what is not the standard alphabet with its padding."""
    is_ended = False
    pieces: Iterator[str | memoryview] = _pieces(base64) if isinstance(base64, str) else base64.pieces()
    for piece in pieces:
        try:
            data = binascii.a2b_base64(piece, strict_mode=True)
        except ValueError as error:
            raise InvalidImage("image_b64 is not base64") from error
        padding = len(piece) // 4 * 3 - len(data)
        # More than two, or more text behind it: the decoder would not mind, piece by piece.
        if is_ended or padding > 2:
            raise InvalidImage("image_b64 is not base64")
        is_ended = padding > 0
        yield data


def _pieces(text: str) -> Iterator[str]:
    for begin in range(0, len(text), _PIECE_CHARACTERS):
        yield text[begin : begin + _PIECE_CHARACTERS]
