"""The guard against crash loops, with a scripted clock."""

import pytest
from gunicorn.errors import HaltServer

from pod.restarts import MAX_DELAY_S, MAX_YOUNG_DEATHS, YOUNG_S, RestartGuard


class Life:
    """A guard whose workers live as long as the test says."""

    def __init__(self, workers: int = 1) -> None:
        self.now_s = 0.0
        self.guard = RestartGuard(workers, clock=lambda: self.now_s)
        self._age = 0

    def one_worker(self, lived_s: float, *, others_serve: bool = False) -> None:
        self._age += 1
        self.guard.born(self._age)
        self.now_s += lived_s
        self.guard.died(self._age, others_serve=others_serve)


def test_delay_doubles_with_young_deaths() -> None:
    """A first death costs no time: that is what a lost device looks like. A loop gets slower and slower."""
    life = Life()
    delays = []
    for _ in range(MAX_YOUNG_DEATHS - 1):
        life.one_worker(1.0)
        delays.append(life.guard.delay_s())

    assert [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, MAX_DELAY_S, MAX_DELAY_S, MAX_DELAY_S] == delays


def test_too_many_young_deaths_halt_the_master() -> None:
    """The platform sees a failed container and can try another machine."""
    life = Life()
    for _ in range(MAX_YOUNG_DEATHS - 1):
        life.one_worker(1.0)

    with pytest.raises(HaltServer) as halted:
        life.one_worker(1.0)
    assert 0 != halted.value.exit_status


@pytest.mark.parametrize(
    ("lived_s", "expected_s"),
    [pytest.param(YOUNG_S - 1, 2.0, id="young"), pytest.param(YOUNG_S, 0.0, id="old")],
)
def test_a_worker_that_served_starts_the_count_anew(lived_s: float, expected_s: float) -> None:
    """A death after a long life says nothing about the next one's."""
    life = Life()
    life.one_worker(1.0)
    life.one_worker(1.0)
    life.one_worker(lived_s)

    assert expected_s == life.guard.delay_s()


def test_retired_workers_do_not_count() -> None:
    """Reloads and shutdowns end young workers too."""
    life = Life()
    for age in range(100, 100 + 2 * MAX_YOUNG_DEATHS):
        life.guard.born(age)
        life.guard.retired(age)

    assert 0.0 == life.guard.delay_s()


def test_what_all_workers_die_of_counts_once() -> None:
    """A lost device ends each of them: together they wait, and are given up, as a single one would be."""
    life = Life(workers=2)
    delays = []
    for _ in range(2 * MAX_YOUNG_DEATHS - 1):
        life.one_worker(1.0)
        delays.append(life.guard.delay_s())

    assert [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0] == delays[:8]
    with pytest.raises(HaltServer):
        life.one_worker(1.0)


def test_master_goes_on_while_another_worker_serves() -> None:
    """However often the other one dies: it is tried every so often, and the pod ends when nobody is left to serve."""
    life = Life(workers=2)
    for _ in range(100 * MAX_YOUNG_DEATHS):
        life.one_worker(1.0, others_serve=True)

    assert MAX_DELAY_S == life.guard.delay_s()
    with pytest.raises(HaltServer):
        life.one_worker(1.0, others_serve=False)
