"""What the service and an image process say to each other: JSON in frames, over a pair of sockets.

JSON and no pickle: an image process handles strangers' bytes, and what it says must not be able to run anything here.
Beside a message that gives work the descriptor of a file may travel, with the images that were sent by content.
"""

import re
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from core import errors

_LENGTH = struct.Struct("<I")

# Far more than any message has; a process that says otherwise has lost its mind.
_MAX_BYTES = 16 * 1024 * 1024

_READ_BYTES = 262_144

# Between two reads; one with each message at most.
_MAX_DESCRIPTORS = 16

_MAX_MESSAGE_CHARACTERS = 200

_SHA256 = re.compile("([0-9a-f]{64})?")

WORK, DECODE, FORGET = "work", "decode", "forget"
READY, FETCHED, SLOW, ENDED = "ready", "fetched", "slow", "ended"

_ERRORS: dict[str, type[errors.ServiceError]] = {
    kind.code: kind
    for kind in (
        errors.UrlNotAllowed,
        errors.DownloadError,
        errors.DownloadTimeout,
        errors.ImageTooLarge,
        errors.InvalidImage,
        errors.Overloaded,
        errors.DeadlineExceeded,
        errors.InternalError,
    )
}


class Garbled(Exception):
    """What came is no message of this protocol."""


def frame(message: list[Any]) -> bytes:
    """A message as it goes over the socket."""
    payload = orjson.dumps(message)
    return _LENGTH.pack(len(payload)) + payload


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """The first message to an image process; bytes, pixels and seconds, each a limit of one process."""

    size_px: int
    slots: int
    in_turns: bool
    """Whether a decode waits until it is told that it may begin."""
    hashes: bool
    """Whether it says the SHA-256 of what it has downloaded."""
    slow_s: float
    """What will about take longer than this to decode is handed back; infinite in a process that is for those."""
    max_requests: int
    max_image_bytes: int
    max_image_pixels: int
    max_downloaded_bytes: int
    max_decoder_bytes: int
    max_memory_bytes: int
    download_timeout_s: float
    allow_hosts: str
    log_level: str


class Inbox:
    """The messages that come over a socket; knows where each one ends. Descriptors that come along are dropped."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unread = bytearray()

    def receive(self) -> Iterator[list[Any]]:
        """Read once and yield what is complete. Raises `EOFError`, `Garbled` and what the socket raises."""
        piece = self._read()
        if not piece:
            raise EOFError
        self._unread += piece
        while (message := self._next()) is not None:
            yield message

    def _read(self) -> bytes:
        return self._sock.recv(_READ_BYTES)

    def _next(self) -> list[Any] | None:
        if len(self._unread) < _LENGTH.size:
            return None
        [length] = _LENGTH.unpack_from(self._unread)
        if length > _MAX_BYTES:
            raise Garbled
        if len(self._unread) < _LENGTH.size + length:
            return None
        payload = bytes(self._unread[_LENGTH.size : _LENGTH.size + length])
        del self._unread[: _LENGTH.size + length]
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise Garbled from error
        if not isinstance(message, list) or not message:
            raise Garbled
        return message


class DescriptorInbox(Inbox):
    """Of an image process: keeps the descriptors in the order of their messages, of which each is there by then."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.descriptors: deque[int] = deque()

    def _read(self) -> bytes:
        piece, descriptors, _flags, _address = socket.recv_fds(
            self._sock, _READ_BYTES, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        self.descriptors += descriptors
        return piece


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one image in an image process; times in milliseconds, and when they began, on the monotonic clock,
    which all processes of a machine share. `sha256`, of the file, in hex, is empty where it was not asked for.
    """

    job_id: int
    download_began_s: float = 0.0
    download_ms: float = 0.0
    decode_began_s: float = 0.0
    decode_ms: float = 0.0
    sha256: str = ""
    error: errors.ServiceError | None = None

    @classmethod
    def parse(cls, report: object) -> "Report":
        """Raises `Garbled`."""
        match report:
            case [
                int(job_id),
                float(download_began_s),
                float(download_ms),
                float(decode_began_s),
                float(decode_ms),
                str(sha256),
            ] if _SHA256.fullmatch(sha256):
                return cls(job_id, download_began_s, download_ms, decode_began_s, decode_ms, sha256)
            case [int(job_id), str(code), str(message), bool(retryable)]:
                return cls(job_id, error=_error_of(code, message, retryable=retryable))
        raise Garbled


def describe(error: errors.ServiceError) -> list[Any]:
    """An error of one image, as the image process reports it."""
    return [error.code, error.message, error.retryable]


def _error_of(code: str, message: str, *, retryable: bool) -> errors.ServiceError:
    kind = _ERRORS.get(code)
    if kind is None or not message.isprintable():
        raise Garbled
    text = message[:_MAX_MESSAGE_CHARACTERS]
    if kind is errors.DownloadError:
        return errors.DownloadError(text, retryable=retryable)
    return kind(text)
