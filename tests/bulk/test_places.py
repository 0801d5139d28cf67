"""Where files lie: paths and URIs, and that a file is there whole or not at all."""

import errno
import os
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import dataset, fs

from bulk.errors import BulkError
from bulk.places import Place, explained, reason, require_no_key, stem
from tests.bulk.object_store import s3


@pytest.fixture(params=[pytest.param("path", id="path"), pytest.param("uri", id="file URI")])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.of(str(tmp_path) if request.param == "path" else tmp_path.as_uri())


def test_what_is_written_is_read(folder: Place) -> None:
    """Files and folders are made, found in order, measured and removed."""
    (folder / "b").make()
    (folder / "b" / "two").write(lambda stream: stream.write(b"22"))
    (folder / "one").write(lambda stream: stream.write(b"1"))

    assert ["one"] == [Path(path).name for path in folder.files()]
    assert ["two", "one"] == [Path(path).name for path in folder.files(recursive=True)]
    assert (3, b"22", b"2") == (folder.size(), (folder / "b" / "two").read(), (folder / "b" / "two").read(1))
    for place in (folder / "b", folder / "one", folder / "never"):
        place.remove()
    assert [] == folder.files(recursive=True)


def test_a_link_to_a_folder_above_leads_nowhere(folder: Place) -> None:
    """What is below it is there already, and would be without end; any other link is a folder."""
    for name in ("a", "b"):
        (folder / name).make()
        (folder / name / "one").write(lambda stream: stream.write(b"1"))
    for target, link in (("..", "a/up"), ("../a", "b/aside"), (".", "itself")):
        os.symlink(target, (folder / link).path)

    found = [path.removeprefix(f"{folder.path}/") for path in folder.files(recursive=True)]

    assert ["a/one", "b/aside/one", "b/one"] == found


def test_a_file_is_its_own_only_file(folder: Place) -> None:
    """What is named alone is what is found; where there is nothing, nothing is."""
    (folder / "one").write(lambda stream: stream.write(b"1"))

    assert [(folder / "one").path] == (folder / "one").files()
    assert [] == (folder / "none").files()
    assert (True, False) == ((folder / "one").exists(), (folder / "none").exists())


def test_any_machine_can_open_it(folder: Place) -> None:
    """Places go to other processes."""
    (folder / "one").write(lambda stream: stream.write(b"1"))

    assert b"1" == pickle.loads(pickle.dumps(folder / "one")).read()  # noqa: S301 - our own bytes


def test_a_file_is_whole_or_not_there(folder: Place) -> None:
    """Whoever fails in the middle leaves what was there before, and nothing beside it."""

    def fail(stream: pa.NativeFile) -> None:
        stream.write(b"half of it")
        raise MemoryError

    (folder / "one").write(lambda stream: stream.write(b"before"))
    for name in ("one", "two"):
        with pytest.raises(MemoryError):
            (folder / name).write(fail)

    assert b"before" == (folder / "one").read()
    assert [(folder / "one").path] == folder.files()


def test_a_file_outlives_the_machine(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on the disk before it has its name, and its name is there before anybody goes on."""
    synced: list[tuple[str, bool]] = []

    def sync(opened: int) -> None:
        name = Path(f"/proc/self/fd/{opened}").resolve().name
        synced.append((name.partition(".")[0], (folder / "one").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    (folder / "one").write(lambda stream: stream.write(b"1"))

    assert [("_one", False), (Path(folder.path).name, True)] == synced


def test_what_a_killed_machine_leaves_is_no_table(folder: Place) -> None:
    """Readers of tables pass over names that begin so; the next run removes it."""
    left: list[str] = []

    def look(stream: pa.NativeFile) -> None:
        left.extend(folder.files())
        raise MemoryError

    with pytest.raises(MemoryError):
        (folder / "part-00000.parquet").write(look)
    [unfinished] = left
    folder.at(unfinished).filesystem.open_output_stream(unfinished).close()
    seen = dataset.dataset(folder.path).files
    folder.remove_unfinished()

    assert [] == seen
    assert [] == folder.files()


class FullDisk(LocalFileSystem):  # type: ignore[misc]
    """On some filesystems a full disk cannot even forget."""

    def rm(self, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", [pytest.param("one", id="file"), pytest.param("", id="folder")])
def test_what_cannot_be_removed_is_one_line(tmp_path: Path, name: str) -> None:
    """It names the file or the folder."""
    (tmp_path / "one").write_bytes(b"1")
    place = Place(fs.PyFileSystem(fs.FSSpecHandler(FullDisk())), str(tmp_path / name))

    with pytest.raises(BulkError, match=f"^{re.escape(place.path)}: No space left on device$"):
        place.remove()


def test_an_object_is_whole_or_not_there() -> None:
    """Where nothing can be renamed, closing what failed halfway must not leave the half."""

    def fail(stream: pa.NativeFile) -> None:
        stream.write(b"half of it")
        raise MemoryError

    with s3() as (_, filesystem):
        place = Place(filesystem, "bucket/out")
        (place / "one").write(lambda stream: stream.write(b"1"))
        with pytest.raises(MemoryError):
            (place / "two").write(fail)

        assert ["bucket/out/one"] == place.files()
        assert b"1" == (place / "one").read()


def test_credentials_are_in_no_message() -> None:
    """A URI may have them; what is said of it has not."""
    with pytest.raises(BulkError, match=r"^nobodys://bucket/a: ") as caught:
        Place.of("nobodys://key:secret@bucket/a")

    assert "secret" not in str(caught.value)


def test_query_is_in_no_message() -> None:
    """A row's URI may have a key there, and rejects are for everybody."""
    with pytest.raises(BulkError, match=r"^nobodys://bucket/a: ") as caught:
        Place.of("nobodys://bucket/a?token=secret")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        pytest.param("s3://key:a-secret@bucket/a", "s3://...@bucket: has a key", id="password"),
        pytest.param("abfs://:a-secret@account/a", "abfs://...@account: has a key", id="password alone"),
        pytest.param("s3://key:a-/secret@bucket/a", "s3://...: is no URI", id="slash in the password"),
        pytest.param("s3://key:/a-secret@bucket/a", "s3://...: has a key", id="slash begins the password"),
        pytest.param("gs://key:12/a-secret@bucket/a", "gs://...: has a key", id="numbers before the slash"),
        pytest.param("hdfs://key:/a-secret@host/a", "hdfs://...: has a key", id="slash begins it, no bucket"),
        pytest.param("https://a-secret@host/a", "https://...@host: has a key", id="token as a name"),
        pytest.param("s3://[a-secret@bucket/a", "s3://...: is no URI", id="no host"),
        pytest.param("s3://key:a-secret\u2100@bucket/a", "s3://...: is no URI", id="characters of no host"),
        pytest.param("abfs://c@a/t?client_secret=a-secret", "abfs://a/t: client_secret in its query", id="Azure"),
        pytest.param("abfs://c@a/t?sv=1&sig=a-secret", "abfs://a/t: sv, sig in its query", id="shared access"),
        pytest.param("s3://b/t?region=x&secret_key=a-secret", "s3://b/t: secret_key in its query", id="S3"),
        pytest.param("https://h/t?X-Amz-Signature=a-secret", "https://h/t: X-Amz-Signature in its query", id="signed"),
        pytest.param("s3://b/t?client%5Fsecret=a-secret", "s3://b/t: client%5Fsecret in its query", id="quoted"),
        pytest.param("s3://b/t?Region=a-secret", "s3://b/t: Region in its query", id="another case"),
        pytest.param("https://h/t?a-secret", "https://h/t: ... in its query", id="without a name"),
        pytest.param("gs://b/t?scheme", "gs://b/t: ... in its query", id="without a value"),
        pytest.param("s3://b/#?sig=a-secret", "s3://b/: sig in its query", id="behind a fragment"),
    ],
)
def test_what_could_be_a_key_is_refused_and_not_shown(uri: str, said: str) -> None:
    """By its name: nobody can tell a key by its looks."""
    with pytest.raises(BulkError, match=f"^{re.escape(said)}") as caught:
        require_no_key(uri)

    assert "secret@" not in str(caught.value)
    assert "a-" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "table/a@b:c?d=e",
        "s3://bucket/a:b@c",
        "hdfs://host:8020/a@b?replication=2",
        "http://[::1]/a@b",
        "s3://key@bucket/a?region=x&scheme=http&endpoint_override=h%3A1",
        "gs://bucket/a?project_id=x&retry_limit_seconds=5",
        "abfs://container@account.dfs.core.windows.net/a?enable_tls=true&credential_kind=environment",
    ],
)
def test_what_is_no_key_is_taken(uri: str) -> None:
    """What the filesystems of pyarrow are told beside keys, and paths on this machine, which have no query."""
    require_no_key(uri)


def test_any_filesystem_of_fsspec() -> None:
    """Whoever has a scheme that pyarrow does not know has it from there."""
    place = Place.of("memory://somewhere")
    (place / "one").write(lambda stream: stream.write(b"1"))

    assert b"1" == (Place.of("memory://somewhere") / "one").read()
    assert isinstance(place.filesystem, fs.PyFileSystem)


def test_uri_that_nobody_knows() -> None:
    """One line that names it."""
    with pytest.raises(BulkError, match=r"^nobodys://bucket/a: ") as caught:
        Place.of("nobodys://bucket/a")

    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize("uri", ["github://x", "dir://x", "generic://x"])
def test_uri_that_does_not_say_enough(uri: str) -> None:
    """What a filesystem of fsspec raises where it must be told more is one line too."""
    with pytest.raises(BulkError, match=f"^{uri}: ") as caught:
        Place.of(uri)

    assert 1 == len(str(caught.value).splitlines())


def test_a_password_with_a_slash_is_in_no_message() -> None:
    """Where it ends is not certain, so nothing behind the scheme is shown."""
    with pytest.raises(BulkError, match=r"^nobodys://\.\.\.: ") as caught:
        Place.of("nobodys://key:a-/secret@bucket/a")

    assert "secret" not in str(caught.value)


def test_a_relative_path_is_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes the folder later means the same file."""
    monkeypatch.chdir(tmp_path)

    assert str(tmp_path / "a b" / "c") == Place.of("a b/c").path


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param("no https://h/a?sig=secret&x=1 here", "no https://h/a here", id="query"),
        pytest.param("url: /a?token=secret (Caused by x)", "url: /a (Caused by x)", id="query of a path"),
        pytest.param("s3://key:secret/x@bucket/a is away", "s3://bucket/a is away", id="password"),
        pytest.param("is it there? a@b//c", "is it there a@b//c", id="nothing of the kind"),
    ],
)
def test_a_reason_has_no_key(said: str, expected: str) -> None:
    """Libraries repeat the address that they asked, and reasons are written down."""
    assert expected == reason(ValueError(said))


@given(st.text() | st.none())
@example(" ")
@example("?a")
def test_any_reason_is_one_line(text: str | None) -> None:
    """Whatever a library says, or if it says nothing."""
    error = ValueError() if text is None else ValueError(text)

    said = reason(error)

    assert 1 == len(said.splitlines())
    assert 0 < len(said) <= 300


def test_only_what_a_file_can_cause_is_explained() -> None:
    """A mistake in the code is not an input's."""
    with pytest.raises(ZeroDivisionError), explained("x"):
        raise ZeroDivisionError
    with pytest.raises(BulkError, match=r"^x: No such file or directory$"), explained("x"):
        Path("/nowhere/at/all").read_bytes()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/a/b.csv.gz", "b.csv", id="compressed"),
        pytest.param("b.parquet", "b.parquet", id="plain"),
        pytest.param("/a.gz/b.jsonl.zst", "b.jsonl", id="folder that looks compressed"),
    ],
)
def test_stem_tells_the_format(path: str, expected: str) -> None:
    """The suffix of the compression says nothing of what is in it."""
    assert expected == stem(path)


def test_bucket_is_asked_once() -> None:
    """Objects of one bucket share its filesystem, which looks up the region; their paths are as pyarrow has them."""
    uris = [
        f"s3://access:secret@bucket/{name}?region=eu-central-1&scheme=http" for name in ("a/b.jpg", "c.jpg", "a%20b")
    ]
    places = [Place.of(uri) for uri in uris]

    assert [fs.FileSystem.from_uri(uri)[1] for uri in uris] == [place.path for place in places]
    assert places[0].filesystem is places[1].filesystem
    assert places[0].filesystem is not Place.of(uris[0].replace("bucket", "other")).filesystem
