"""Rows in shared memory: who serves, who takes connections, and places that outlive no process."""

import os

import pytest

from core.siblings import Phase, Siblings, accepts


@pytest.mark.parametrize(
    ("own", "others_serve", "expected"),
    [
        pytest.param(Phase.SERVING, True, True, id="serves with others"),
        pytest.param(Phase.SERVING, False, True, id="serves alone"),
        pytest.param(Phase.LOADING, True, False, id="loads while others serve"),
        pytest.param(Phase.LOADING, False, True, id="loads and nobody serves"),
        pytest.param(Phase.LEAVING, True, False, id="leaves while others serve"),
        pytest.param(Phase.LEAVING, False, True, id="leaves and nobody serves"),
    ],
)
def test_door(own: Phase, *, others_serve: bool, expected: bool) -> None:
    """Whoever cannot serve leaves connections to those who can, and answers them itself when there are none."""
    assert expected == accepts(own, others_serve=others_serve)


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        pytest.param([Phase.LOADING, Phase.LOADING], [True, True], id="at the start"),
        pytest.param([Phase.SERVING, Phase.LOADING], [True, False], id="one is ready"),
        pytest.param([Phase.SERVING, Phase.SERVING], [True, True], id="both are"),
        pytest.param([Phase.LEAVING, Phase.SERVING], [False, True], id="one drains"),
        pytest.param([Phase.LEAVING, Phase.LEAVING], [True, True], id="both drain"),
    ],
)
def test_each_seat_knows_of_the_others(phases: list[Phase], expected: list[bool]) -> None:
    """Its own row is none of them."""
    siblings = Siblings()
    seats = [siblings.seat() for _ in phases]
    for seat, phase in zip(seats, phases, strict=True):
        seat.show(phase)

    assert expected == [seat.accepts for seat in seats]


def test_places_are_counted_over_all() -> None:
    """Nobody has more for being alone with them; one that is refused takes none."""
    siblings = Siblings()
    first, second = siblings.seat(), siblings.seat()
    taken = [first.take_place(2), second.take_place(2), first.take_place(2), second.take_place(2)]
    first.give_place_back()
    taken.append(second.take_place(2))

    assert [True, True, False, False, True] == taken
    assert (0, 2, 2) == (first.requests, second.requests, siblings.requests)


def test_freed_row_holds_nothing() -> None:
    """What a process held when it was killed is there for others, and its row for the next one."""
    siblings = Siblings(2)
    killed, _other = siblings.seat(), siblings.seat()
    killed.show(Phase.SERVING)
    assert killed.take_place(1)
    siblings.free(killed)
    left = (siblings.processes, siblings.serving, siblings.requests)
    successor = siblings.seat()

    assert (1, 0, 0) == left
    assert killed.row == successor.row
    assert successor.take_place(1)


def test_forked_process_shares_the_rows() -> None:
    """What one writes the other reads; that it is killed in the midst of its work leaves nothing locked."""
    siblings = Siblings()
    mine, its = siblings.seat(), siblings.seat()
    pid = os.fork()
    if pid == 0:
        its.show(Phase.SERVING)
        its.take_place(10)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    seen = (siblings.serving, siblings.requests, mine.accepts)
    siblings.free(its)

    assert (1, 1, False) == seen
    assert (0, 0, True) == (siblings.serving, siblings.requests, mine.accepts)


def test_successors_are_those_who_come_after() -> None:
    """Of those who are replaced none counts as a successor, ready or not."""
    siblings = Siblings()
    old, other_old = siblings.seat(), siblings.seat()
    other_old.show(Phase.SERVING)
    siblings.replace_all()
    new = siblings.seat()
    found = [old.has_successor]
    new.show(Phase.SERVING)
    found.append(old.has_successor)

    assert [False, True] == found
    assert [True, False] == [old.is_replaced, new.is_replaced]
