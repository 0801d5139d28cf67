"""What many images cost the client's process: every way runs against the pod with an instant engine; goals."""

import pytest

from bench import client
from bench.client import ASYNCIO, EARLY_MIB, END_MIB, FAILED, LARGEST_MIB, LISTED, RATE, THREADS
from bench.lines import Line
from bench.trees import THIS

ITEMS = 200


def test_every_way_embeds_all_images() -> None:
    """Each way gets a vector for each image, and tells the size of a real process."""
    lines = client.measure([THIS], ITEMS, ITEMS // 2)

    assert [THREADS.what, ASYNCIO.what, LISTED.what] == [line.what for line in lines]
    for line in lines:
        assert 0.0 == line.figures[FAILED]
        assert 1.0 < (line.figures[RATE] or 0.0)
        sizes = [line.figures[name] or 0.0 for name in (EARLY_MIB, END_MIB, LARGEST_MIB)]
        # An interpreter with numpy in it, and nothing like the service's own process.
        assert all(10.0 < size < 1000.0 for size in sizes)
        assert max(sizes) == pytest.approx(sizes[-1], rel=0.05)


def _line(what: str, early_mib: float, end_mib: float, failed: float = 0.0) -> Line:
    return Line(what, THIS.label, {EARLY_MIB: early_mib, END_MIB: end_mib, FAILED: failed})


def test_memory_must_stay_level() -> None:
    """Each client that iterates may grow by five percent after the beginning; a list may grow as it likes."""
    lines = [_line(THREADS.what, 100.0, 104.9), _line(ASYNCIO.what, 100.0, 106.0), _line(LISTED.what, 100.0, 500.0)]

    assert [True, False] == [check.met for check in client.checks(lines)]


def test_failed_images_meet_no_goal() -> None:
    """Errors are smaller than vectors, and that is no merit."""
    lines = [_line(way.what, 100.0, 100.0, failed=1.0) for way in (THREADS, ASYNCIO)]

    assert [False, False] == [check.met for check in client.checks(lines)]


def test_what_was_not_measured_is_not_met() -> None:
    """A run that has no such row says so."""
    assert [None, None] == [check.met for check in client.checks([])]
