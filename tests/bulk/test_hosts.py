"""Places of hosts: never more downloads than the limit, whoever comes, goes or dies, and nobody waits for ever."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bulk.hosts import FORGET_S, Need, Places

HOST = "images.example.com"


@dataclass
class Asker:
    """What a machine does: it never begins more than it was granted, and what it has begun goes on."""

    granted: int = 0
    busy: int = 0
    waiting: int = 0

    def ask(self, places: Places, name: str) -> None:
        need = Need(self.busy + self.waiting, self.busy)
        self.granted = places.ask(name, {HOST: need})[HOST]
        begun = max(0, min(self.waiting, self.granted - self.busy))
        self.busy, self.waiting = self.busy + begun, self.waiting - begun


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Machines(RuleBasedStateMachine):
    """Machines that want, begin, end and die in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 5
        self.clock = Clock()
        self.places = Places(self.limit, self.clock)
        self.askers = {name: Asker() for name in "abcd"}

    names = st.sampled_from("abcd")

    @rule(name=names, more=st.integers(1, 9))
    def wants(self, name: str, more: int) -> None:
        self.askers[name].waiting += more
        self.askers[name].ask(self.places, name)

    @rule(name=names, done=st.integers(1, 9))
    def ends(self, name: str, done: int) -> None:
        self.askers[name].busy = max(0, self.askers[name].busy - done)

    @rule(name=names)
    def asks_again(self, name: str) -> None:
        self.askers[name].ask(self.places, name)

    @rule(name=names)
    def dies(self, name: str) -> None:
        """Its downloads end with it; that nobody asks any more is seen when the time is over."""
        self.askers[name] = Asker()

    @rule(seconds=st.floats(0.1, FORGET_S / 4))
    def time_passes(self, seconds: float) -> None:
        """Whoever lives asks all the while."""
        self.clock.now_s += seconds
        self.places.forget_idle()
        for name, asker in self.askers.items():
            if asker.busy or asker.waiting:
                asker.ask(self.places, name)

    @invariant()
    def never_more_than_the_limit(self) -> None:
        assert sum(asker.busy for asker in self.askers.values()) <= self.limit


TestMachines = Machines.TestCase
TestMachines.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


@given(st.integers(1, 8), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_everybody_comes_to_an_end(limit: int, wanted: list[int]) -> None:
    """Whoever asks again and again has done all that it wanted, however many others there are, fast ones included."""
    places = Places(limit, Clock())
    askers = [Asker(waiting=number) for number in wanted]

    for _ in range(sum(wanted) * len(wanted) + 10):
        for number, asker in enumerate(askers):
            asker.ask(places, str(number))
        for asker in askers:
            asker.busy = 0

    assert [0] * len(wanted) == [asker.waiting for asker in askers]


def test_alone_one_has_all_places() -> None:
    """And no more than it wants."""
    places = Places(8, Clock())

    assert {HOST: 8} == places.ask("a", {HOST: Need(20, 0)})
    assert {HOST: 3} == places.ask("a", {HOST: Need(3, 3)})


def test_who_comes_later_gets_an_even_part_as_soon_as_places_are_free() -> None:
    """Not before: what is under way is under way."""
    places = Places(8, Clock())
    places.ask("a", {HOST: Need(20, 0)})
    first = places.ask("b", {HOST: Need(20, 0)})[HOST]
    of_a = places.ask("a", {HOST: Need(20, 8)})[HOST]
    still = places.ask("b", {HOST: Need(20, 0)})[HOST]
    places.ask("a", {HOST: Need(16, 4)})
    then = places.ask("b", {HOST: Need(20, 0)})[HOST]

    assert (0, 4, 0, 4) == (first, of_a, still, then)


def test_hosts_do_not_share() -> None:
    """One host's limit is nothing to another's."""
    places = Places(2, Clock())

    assert {"x": 2, "y": 2} == places.ask("a", {"x": Need(9, 0), "y": Need(9, 0)})


def test_whoever_died_is_forgotten_after_a_while() -> None:
    """A second before that its places are still its own."""
    clock = Clock()
    places = Places(4, clock)
    places.ask("dead", {HOST: Need(4, 0)})
    clock.now_s += FORGET_S - 1
    before = places.ask("a", {HOST: Need(4, 0)})[HOST]
    clock.now_s += 2
    after = places.ask("a", {HOST: Need(4, 0)})[HOST]

    assert (0, 4) == (before, after)


def test_hosts_that_nobody_wants_take_no_memory() -> None:
    """Millions of hosts pass in a run."""
    clock = Clock()
    places = Places(4, clock)
    places.ask("a", {f"host-{number}": Need(1, 0) for number in range(100)})
    places.ask("a", {f"host-{number}": Need(0, 0) for number in range(50)})
    places.forget_idle()
    half = len(places._shares)
    clock.now_s += FORGET_S + 1
    places.forget_idle()

    assert (50, 0) == (half, len(places._shares))
