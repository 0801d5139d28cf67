"""A hash is recalled for the very file it was computed from, and for no other."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from core.clip.hash_record import HashRecord

HASHES = b"what the weights hash to"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old weights")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "not there yet" / "cache"


def record_of(weights: Path, cache: Path, *, age_ns: int = 10**10) -> HashRecord:
    """As it is made when the file has this age."""
    changed_ns = max(weights.stat().st_mtime_ns, weights.stat().st_ctime_ns)
    return HashRecord.of(weights, cache, lambda: changed_ns + age_ns)


def rewrite(weights: Path) -> None:
    """Other bytes, as many, in the same file with the same time, when its clock has ticked."""
    before = weights.stat()
    while weights.stat().st_ctime_ns == before.st_ctime_ns:
        weights.write_bytes(b"new weights")
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap(weights: Path) -> None:
    """Another file of the same size and time in its place, as `rsync -t` and `tar` put it there."""
    other = weights.with_name("other")
    other.write_bytes(b"new weights")
    shutil.copystat(weights, other)
    other.replace(weights)


def test_hash_is_recalled_by_the_next_start(weights: Path, cache: Path) -> None:
    """The second start need not read the weights."""
    record_of(weights, cache).remember(HASHES)

    assert HASHES == record_of(weights, cache).recall()


@pytest.mark.parametrize("change", [rewrite, swap])
def test_other_file_of_the_same_size_and_time_is_hashed_again(
    weights: Path, cache: Path, change: Callable[[Path], None]
) -> None:
    """Neither size nor modification time is enough: every fine-tuned model has the size of the one before."""
    record_of(weights, cache).remember(HASHES)
    change(weights)

    assert record_of(weights, cache).recall() is None


@pytest.mark.parametrize("change", [rewrite, swap])
def test_file_that_changes_while_it_is_hashed_is_not_remembered(
    weights: Path, cache: Path, change: Callable[[Path], None]
) -> None:
    """The hash may be of the old bytes, of the new ones, or of some of both."""
    record = record_of(weights, cache)
    change(weights)
    record.remember(HASHES)

    assert record_of(weights, cache).recall() is None


@pytest.mark.parametrize(
    ("age_ns", "expected"), [pytest.param(2 * 10**9, None, id="young"), pytest.param(4 * 10**9, HASHES, id="settled")]
)
def test_file_that_was_just_written_is_not_remembered(
    weights: Path, cache: Path, age_ns: int, expected: bytes | None
) -> None:
    """It could be written again within one tick of its clock, and look the same."""
    record_of(weights, cache, age_ns=age_ns).remember(HASHES)

    assert expected == record_of(weights, cache).recall()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-1], id="cut off"),
        pytest.param(lambda data: bytes([data[0] ^ 1]) + data[1:], id="another bit"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_damaged_record_is_none(weights: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    """A wrong hash would name vectors wrongly for years."""
    record = record_of(weights, cache)
    record.remember(HASHES)
    record.path.write_bytes(damage(record.path.read_bytes()))

    assert record.recall() is None


def test_cache_that_cannot_be_written_is_no_failure(weights: Path, tmp_path: Path) -> None:
    """The next start hashes again."""
    (tmp_path / "file").write_bytes(b"")
    record = record_of(weights, tmp_path / "file" / "cache")
    record.remember(HASHES)

    assert record.recall() is None


def test_missing_weights_are_no_failure_here(weights: Path, cache: Path) -> None:
    """Whoever reads them says what is wrong."""
    weights.unlink()

    assert HashRecord.of(weights, cache).recall() is None
