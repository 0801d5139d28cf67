"""When a start of an image process is worth it."""

import pytest

from core.images.starts import Starts


@pytest.mark.parametrize(("processes", "most"), [(1, 8), (4, 8), (16, 32)])
def test_giving_up_is_for_good(processes: int, most: int) -> None:
    """After so many in a row, also where one that was begun before becomes ready then."""
    starts = Starts(processes)
    for _ in range(most - 1):
        starts.note(ready=False)
    assert not starts.given_up
    starts.note(ready=False)
    starts.note(ready=True)

    assert starts.given_up


def test_one_that_is_ready_begins_the_count_again() -> None:
    """The first is started at once, and each that fails has the next one wait longer, within seconds."""
    starts = Starts(1)
    delays_s = [starts.delay_s]
    for _ in range(7):
        starts.note(ready=False)
        delays_s.append(starts.delay_s)
    starts.note(ready=True)

    assert [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0] == delays_s
    assert (0, 0.0, False) == (starts.dead, starts.delay_s, starts.given_up)
