"""What an earlier start hashed a file of weights to, kept for as long as it is the very same file.

Who may use it, and why it cannot put a wrong fingerprint on a vector: docs/decisions/0019-no-torch-on-openvino.md.
"""

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# Raise it when `hash_weights` gives other bytes for the same file: old records are then not found any more.
_FORMAT = 2

_SHA256_BYTES = 32

# The clock of a file moves in ticks, some milliseconds long on a disk and a second on a network: what was written a
# moment ago could be written again without a trace.
_SETTLED_NS = 3_000_000_000


@dataclass(frozen=True, slots=True)
class HashRecord:
    """Of the file that `weights` was when this was made. Nothing here raises: without a record a start takes longer."""

    weights: Path
    path: Path
    identity: str
    settled: bool

    @classmethod
    def of(cls, weights: Path, cache: Path, clock_ns: Callable[[], int] = time.time_ns) -> "HashRecord":
        """The record under `cache`, there already or not. Make it before the weights are read."""
        name = hashlib.sha256(os.fsencode(weights)).hexdigest()[:16]
        status = _status(weights)
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns) if status else 0
        settled = clock_ns() - changed_ns >= _SETTLED_NS
        return cls(weights, cache / f"weights-{name}", _identity(weights, status), settled)

    def recall(self) -> bytes | None:
        """Return what was remembered of this very file."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        hashes, check = data[:-_SHA256_BYTES], data[-_SHA256_BYTES:]
        return hashes if check == self._check(hashes) else None

    def remember(self, hashes: bytes) -> None:
        """Keep what was computed from the file since this was made, unless it may have changed meanwhile."""
        if not self.settled or self.identity != _identity(self.weights, _status(self.weights)):
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.path.parent) as scratch:
                finished = Path(scratch) / self.path.name
                finished.write_bytes(hashes + self._check(hashes))
                finished.replace(self.path)
        except OSError as error:
            logger.info("the hash of the weights was not kept", extra={"cause": error.strerror})

    def _check(self, hashes: bytes) -> bytes:
        """Covers the file's identity and, against half a write or a bad disk, the hashes themselves."""
        return hashlib.sha256(f"{self.identity}\n".encode(errors="surrogateescape") + hashes).digest()


def _identity(path: Path, status: os.stat_result | None) -> str:
    """Another one after any write or replacement: the change time is the kernel's, and `cp -p` cannot set it."""
    if status is None:
        return f"{_FORMAT} {path} is not there"
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f"{_FORMAT} {path} {numbers}"


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
