"""Byte budgets: refusing at once, giving back always."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.byte_budget import ByteBudget
from core.errors import Overloaded


@given(st.lists(st.integers(0, 60), max_size=20))
def test_never_over_the_limit_and_empty_at_the_end(counts: list[int]) -> None:
    """Whatever is asked for, the budget keeps its promise."""
    budget = ByteBudget(100)
    with budget.lease() as lease:
        for count in counts:
            before = budget.used_bytes
            try:
                lease.add(count)
            except Overloaded:
                assert before + count > 100
        used = budget.used_bytes

    assert used <= 100
    assert 0 == budget.used_bytes


def test_refused_lease_takes_nothing() -> None:
    """A block that cannot begin holds nothing."""
    budget = ByteBudget(10)
    with budget.lease(8), pytest.raises(Overloaded), budget.lease(3):
        pass

    assert 0 == budget.used_bytes


def test_many_threads() -> None:
    """Changes from many threads do not get lost."""
    budget = ByteBudget(1_000_000)

    def work() -> None:
        for _ in range(1000):
            with budget.lease(1) as lease:
                lease.add(2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 0 == budget.used_bytes
