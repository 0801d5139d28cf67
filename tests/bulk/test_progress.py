"""What somebody sees who watches a run, and what it is counted from."""

import io
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bulk.account import Account, Cost, per_second
from bulk.progress import Progress, duration

CODES = st.dictionaries(st.sampled_from([None, "INVALID_IMAGE", "DOWNLOAD_ERROR"]), st.integers(1, 99))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.lists(CODES, max_size=9), st.integers(0, 500))
def test_every_row_is_counted_once(pieces: list[dict[str | None, int]], before: int) -> None:
    """Of this run and of those before it; vectors are no rejects."""
    total = sum(sum(piece.values()) for piece in pieces)
    account = Account(before + total, before)
    for piece in pieces:
        account.note(Counter(piece))

    assert (account.rows, total) == (account.done, account.this_run)
    assert total - sum(piece.get(None, 0) for piece in pieces) == account.rejects


def test_a_slow_rate_is_not_none_at_all() -> None:
    """An estimate divides by it, and by the digits that are left of it."""
    assert [476.3, 10.0, 0.0417, 0.000278, 0.0] == [
        per_second(rows, seconds) for rows, seconds in ((4763, 10), (100, 10), (1, 24), (1, 3600), (0, 5))
    ]


def test_the_last_line_is_said() -> None:
    """However short the run was; where nobody watches, the lines between come now and then."""
    stream, account = io.StringIO(), Account(1_200, 200)
    progress = Progress(stream)
    progress.begin(account)
    for _ in range(10):
        account.note(Counter({None: 90, "INVALID_IMAGE": 10}))
        progress.show(account)
    progress.end()

    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("1,200 of 1,200 rows, 100 rejected, ")
    assert progress.rate > 0


def test_a_terminal_has_a_bar() -> None:
    """It begins where an earlier run ended, and ends on a line of its own."""
    stream, account = Terminal(), Account(100, 40)
    progress = Progress(stream)
    progress.begin(account)
    account.note(Counter({None: 59, "INVALID_IMAGE": 1}))
    progress.show(account)
    progress.end()

    assert "100/100" in stream.getvalue()
    assert "rejects=1" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_time_is_written_as_on_a_clock() -> None:
    """Also where it is days."""
    assert ["0:00:01", "0:01:40", "28:00:01"] == [duration(seconds) for seconds in (0.6, 100, 100_801)]


def test_cost_is_of_the_time() -> None:
    """Where somebody has said what an hour costs."""
    assert (1.5, None) == (Cost(3.0).of(1_800), Cost(None).of(1_800))
