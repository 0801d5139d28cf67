"""Where files lie: this machine, or any filesystem of pyarrow or fsspec, by a URI. Knows nothing of what is in them."""

import errno
import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, unquote_plus, urlsplit, urlunsplit
from uuid import uuid4

import pyarrow as pa
from pyarrow import fs

from bulk.errors import BulkError

logger = logging.getLogger(__name__)

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
_CREDENTIALS = re.compile(r"//[^/]*@")
# The same, and any query, within a sentence of a library.
_SECRETS = re.compile(r"(?<=//)\S*@|\?\S*")

# An object is there once it has been sent whole, or not at all: nothing to rename, and renaming would be a copy.
_OBJECT_STORES = {"s3", "gcs", "abfs"}
_UNFINISHED = ".unfinished"
# Schemes of URIs whose host is a bucket.
_BUCKETS = {"s3", "gs", "gcs"}
_WEB = {"http", "https"}
# What pyarrow's filesystems are told in a URI's query, but for what is a key.
_NO_KEYS = {
    *("endpoint_override", "scheme", "use_mmap"),
    # S3
    *("allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open", "region", "smart_defaults"),
    *("tls_ca_dir_path", "tls_ca_file_path", "tls_verify_certificates"),
    # Google's storage
    *("project_id", "retry_limit_seconds"),
    # Azure
    *("background_writes", "blob_storage_authority", "client_id", "credential_kind", "dfs_storage_authority"),
    *("enable_tls", "tenant_id"),
    # HDFS
    *("buffer_size", "default_block_size", "kerb_ticket", "replication", "user"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder: pickles, so that any machine of a cluster can open it."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def of(cls, uri: str) -> "Place":
        """Of a path on this machine or a URI. Raises `BulkError` for a scheme that nobody knows."""
        if not is_uri(uri):
            return cls(fs.LocalFileSystem(), os.path.abspath(uri))
        with explained(_shown(uri)):
            try:
                filesystem, path = _by_pyarrow(uri)
            except pa.ArrowInvalid:
                filesystem, path = _by_fsspec(uri)
        return cls(filesystem, path.rstrip("/") or "/")

    def __truediv__(self, name: str) -> "Place":
        return Place(self.filesystem, f"{self.path.rstrip('/')}/{name}")

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        return bool(self._type != fs.FileType.NotFound)

    @property
    def _type(self) -> fs.FileType:
        with explained(self.path):
            [info] = self.filesystem.get_file_info([self.path])
        return info.type

    @property
    def is_no_file(self) -> bool:
        """Whether it is a folder, a pipe or a device of this machine: reading one may never begin or never end. Raises
        `OSError` or `ArrowException`.
        """
        if not self._is_of_this_machine:
            # Others are not asked.
            return False
        [info] = self.filesystem.get_file_info([self.path])
        return info.type in (fs.FileType.Directory, fs.FileType.Unknown)

    @property
    def _is_of_this_machine(self) -> bool:
        # Also fsspec's own, which takes the URIs that pyarrow refuses.
        return "local" in self.filesystem.type_name

    def files(self, *, recursive: bool = False) -> list[str]:
        """The paths of the files below it, sorted, or its own if it is a file; none where there is nothing."""
        if self._type != fs.FileType.Directory:
            return [self.path] if self.exists() else []
        with explained(self.path):
            infos = self._below(recursive=recursive)
            try:
                return sorted(info.path for info in infos if info.type == fs.FileType.File)
            except UnicodeDecodeError as error:
                # Whoever asks pyarrow for such a name has none; it could not be an id either.
                raise BulkError(f"{os.fsdecode(error.object)!a}: a file's name must be in UTF-8") from error

    def _below(self, *, recursive: bool) -> Iterable[fs.FileInfo]:
        if recursive and self._is_of_this_machine:
            return _walked(self.filesystem, self.path)
        infos: list[fs.FileInfo] = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=recursive))
        return infos

    def size(self) -> int:
        """Of all files below it together, in bytes."""
        with explained(self.path):
            infos = self.filesystem.get_file_info(fs.FileSelector(self.path, recursive=True))
        return sum(info.size or 0 for info in infos)

    def at(self, path: str) -> "Place":
        """A path as `files` gives it."""
        return Place(self.filesystem, path)

    def read(self, most_bytes: int | None = None) -> bytes:
        """All of a file, or its beginning. Raises `OSError`."""
        with self.filesystem.open_input_stream(self.path, compression=None) as stream:
            content: bytes = stream.read(most_bytes)
        return content

    def make(self) -> None:
        """Make the folder, and those above it. Raises `BulkError`."""
        with explained(self.path):
            self.filesystem.create_dir(self.path, recursive=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have a folder for oneself until the block, or this process, ends. Only one of this machine can be held, and
        not on all filesystems. Raises `BulkError` where another process has it.
        """
        if not self._is_of_this_machine:
            yield
            return
        with explained(self.path):
            opened = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BulkError(f"{self.path}: another run plans into it now: use another output") from error
            except OSError:
                logger.debug("a folder cannot be held", extra={"path": self.path})
            yield
        finally:
            os.close(opened)

    def write(self, write: Callable[[pa.NativeFile], object]) -> None:
        """Have `write` fill the file, which is there whole or not at all, also after the machine's end. Raises
        `OSError`.
        """
        if self.filesystem.type_name in _OBJECT_STORES:
            # Closing a stream that failed halfway would leave the half: nothing is sent before all of it is there.
            whole = pa.BufferOutputStream()
            write(whole)
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(whole.getvalue())
            return
        folder, _, name = self.path.rpartition("/")
        # By its first character whoever reads tables passes over it: a machine that dies here leaves it behind.
        unfinished = f"{folder}/_{name}.{uuid4().hex}{_UNFINISHED}"
        try:
            with self.filesystem.open_output_stream(unfinished) as stream:
                write(stream)
            if self._is_of_this_machine:
                _sync(unfinished)
            self.filesystem.move(unfinished, self.path)
            if self._is_of_this_machine:
                # Whoever removes what this file was made of must not be ahead of its name.
                _sync(folder)
        except BaseException:
            _forget(self.filesystem, unfinished)
            raise

    def remove_unfinished(self) -> None:
        """What writing into this folder has left behind. Raises `OSError`."""
        for path in self.files():
            if path.endswith(_UNFINISHED):
                self.filesystem.delete_file(path)

    def remove(self) -> None:
        """Remove a file or a folder, if it is there. Raises `BulkError`."""
        with explained(self.path):
            [info] = self.filesystem.get_file_info([self.path])
            if info.type == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif info.type == fs.FileType.File:
                self.filesystem.delete_file(self.path)


def is_uri(text: str) -> bool:
    """Whether it names a filesystem, and is no path on this machine."""
    return _SCHEME.match(text) is not None


def require_no_key(uri: str) -> None:
    """Raises `BulkError`, without showing it, for what could be a key: URIs are written down and are in messages."""
    if not is_uri(uri):
        return
    scheme = uri.partition(":")[0]
    try:
        parts = urlsplit(uri)
        has_slash_in_password = _has_slash_in_password(parts)
    except ValueError as error:
        raise BulkError(f"{scheme}://...: is no URI") from error
    # A name alone is who asks; over the web, often a token.
    if parts.password is not None or (parts.username and parts.scheme in _WEB):
        found = f"{scheme}://...@{parts.netloc.rpartition('@')[2]}: has a key in it"
    elif has_slash_in_password:
        found = f"{scheme}://...: has a key in it"
    elif unknown := _not_harmless(uri.partition("?")[2]):
        found = f"{_shown(uri)}: {', '.join(unknown)} in its query could be a key"
    else:
        return
    raise BulkError(f"{found}, which would be written down: give keys in the environment")


def _has_slash_in_password(parts: SplitResult) -> bool:
    """The slash ends the host, and makes a port of what is before it: none, or of a bucket. Raises `ValueError` where
    that is no number.
    """
    has_port = parts.port is not None and parts.scheme not in _BUCKETS
    # An address of IPv6 is in brackets.
    has_colon = ":" in parts.netloc.rpartition("]")[2]
    return has_colon and not has_port and "@" in parts.path


def _not_harmless(query: str) -> list[str]:
    """The names in it that nobody knows; what has none could be a key itself."""
    named = [part.partition("=") for part in query.split("&") if part]
    return [name if equals else "..." for name, equals, _ in named if not equals or unquote_plus(name) not in _NO_KEYS]


def _shown(uri: str) -> str:
    """Without what could be a key."""
    try:
        hides_where_it_ends = _has_slash_in_password(urlsplit(uri))
    except ValueError:
        hides_where_it_ends = True
    if hides_where_it_ends:
        return f"{uri.partition(':')[0]}://..."
    return re.split("[?#]", _CREDENTIALS.sub("//", uri))[0]


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever a filesystem or a reader of a format raises is one line that names `what`."""
    try:
        yield
    except (OSError, pa.ArrowException, ImportError, ValueError) as error:
        raise BulkError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The first line of what an exception says, without what could be a key."""
    text = getattr(error, "strerror", None) or str(error)
    lines = _SECRETS.sub("", str(text)).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _by_pyarrow(uri: str) -> tuple[fs.FileSystem, str]:
    """A bucket is asked for its region once, not for each of its objects."""
    parts = urlsplit(uri)
    if parts.scheme not in _BUCKETS or "%" in uri or "#" in uri:
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    filesystem, bucket = _bucket(urlunsplit((parts.scheme, parts.netloc, "", parts.query, "")))
    return filesystem, f"{bucket}{parts.path}"


@lru_cache(maxsize=64)
def _bucket(uri: str) -> tuple[fs.FileSystem, str]:
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")


def _by_fsspec(uri: str) -> tuple[fs.FileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(uri)
    except Exception as error:
        # Whatever: some lack an argument that is not in the URI, others take apart what is not there.
        raise BulkError(f"{_shown(uri)}: {reason(error)}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def _walked(filesystem: fs.FileSystem, path: str) -> Iterator[fs.FileInfo]:
    """What is below a folder of this machine. A link to a folder above it leads nowhere new, and without an end."""
    waiting = [(path, frozenset[str]())]
    while waiting:
        folder, above = waiting.pop()
        real = os.path.realpath(folder)
        if real in above:
            continue
        for info in filesystem.get_file_info(fs.FileSelector(folder)):
            yield info
            if info.type == fs.FileType.Directory:
                waiting.append((info.path, above | {real}))


def _sync(path: str) -> None:
    """Have a file, or the names in a folder, outlive this machine's power. Raises `OSError`."""
    opened = os.open(path or "/", os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some network's and FUSE's have no such thing for a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def _forget(filesystem: fs.FileSystem, path: str) -> None:
    try:
        filesystem.delete_file(path)
    except (OSError, pa.ArrowException):
        # What was to be written tells more. A file by that name is nothing anybody reads.
        return


def stem(path: str) -> str:
    """The name of a file without the folder, and without what says its compression."""
    name = Path(path).name
    for suffix in (".gz", ".bz2", ".zst", ".lz4"):
        name = name.removesuffix(suffix)
    return name
