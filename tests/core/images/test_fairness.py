"""Whose download begins next, as a table and over any course of events."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.images.fairness import Download, Running, next_download

LENT = 6


@dataclass
class Yard:
    """Downloads that wait and that run, driven by hand."""

    running: Running = field(default_factory=lambda: Running(LENT))
    waiting: list[Download] = field(default_factory=list)
    begun: list[Download] = field(default_factory=list)

    def begin_next(self) -> Download | None:
        position = next_download(self.waiting, self.running)
        if position is None:
            return None
        download = self.waiting.pop(position)
        self.running.begin(download)
        self.begun.append(download)
        return download

    def begin_all(self) -> None:
        while self.begin_next() is not None:
            pass

    def end(self, position: int) -> None:
        self.running.end(self.begun.pop(position))

    def under_way(self, request: int) -> int:
        return sum(download.request == request for download in self.begun)


def download(request: int, host: str = "a", at_once: int = 8) -> Download:
    return Download(request, host, at_once)


@pytest.mark.parametrize(
    ("running", "waiting", "expected"),
    [
        pytest.param([], [], None, id="nothing waits"),
        pytest.param([], [download(1), download(2)], 0, id="oldest first"),
        pytest.param([download(1)], [download(1), download(2)], 1, id="the request with fewer under way"),
        pytest.param([download(1, "a")], [download(2, "a"), download(3, "b")], 1, id="the host with fewer under way"),
        pytest.param([download(1, at_once=1)], [download(1, at_once=1)], None, id="as many as the request may have"),
        pytest.param([download(1, "a")] * 3, [download(1, "a")], None, id="half of the lent places are one host's"),
        pytest.param([download(1, "a")] * 3, [download(1, "b")], 0, id="another host"),
        pytest.param([download(1, "a")] * 3, [download(2, "a")], 0, id="first download of a request"),
        pytest.param([download(1, "abcdefg"[n]) for n in range(7)], [download(1, "x")], None, id="all are lent"),
        pytest.param([download(1, "abcdefg"[n]) for n in range(7)], [download(2, "x")], 0, id="all but the request's"),
    ],
)
def test_next(running: list[Download], waiting: list[Download], expected: int | None) -> None:
    """The table of who goes next."""
    state = Running(LENT)
    for begun in running:
        state.begin(begun)

    assert expected == next_download(waiting, state)


# A request that asks for some images of some hosts, or the number of a download that ends.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 8), st.lists(st.sampled_from("abc"), min_size=1, max_size=16)),
        st.integers(0, 100),
    ),
    max_size=60,
)


@given(EVENTS)
def test_nobody_waits_for_a_first_download_and_no_host_has_more_than_half(
    events: list[tuple[int, list[str]] | int],
) -> None:
    """Whatever comes and ends in whatever order: who waits has a download under way, no request has more than it may,
    and the lent places are neither exceeded nor one host's.
    """
    yard = Yard()
    for request, event in enumerate(events):
        if isinstance(event, tuple):
            at_once, hosts = event
            yard.waiting += [download(request, host, at_once) for host in hosts]
        elif yard.begun:
            yard.end(event % len(yard.begun))
        yard.begin_all()

        assert all(yard.under_way(waits.request) > 0 for waits in yard.waiting)  # type: ignore[arg-type]
        assert all(yard.under_way(runs.request) <= runs.at_once for runs in yard.begun)  # type: ignore[arg-type]
        requests = {runs.request for runs in yard.begun}
        assert len(yard.begun) - len(requests) <= LENT


@given(EVENTS)
def test_host_gets_no_lent_place_beyond_half(events: list[tuple[int, list[str]] | int]) -> None:
    """Each place that is lent goes to a host that had fewer than half as many under way."""
    yard = Yard()
    for request, event in enumerate(events):
        if isinstance(event, tuple):
            yard.waiting += [download(request, host, event[0]) for host in event[1]]
        elif yard.begun:
            yard.end(event % len(yard.begun))
        while True:
            before = {host: yard.running.of_host[host] for host in "abc"}
            busy = {runs.request for runs in yard.begun}
            begun = yard.begin_next()
            if begun is None:
                break
            assert begun.request not in busy or before[begun.host] < LENT // 2


def test_counts_return_to_nothing() -> None:
    """Requests and hosts that are over leave no trace: there are many of them in a process's life."""
    yard = Yard(waiting=[download(number % 3, "abc"[number % 3]) for number in range(9)])
    yard.begin_all()
    while yard.begun:
        yard.end(0)

    assert ({}, {}, 0) == (yard.running.of_request, yard.running.of_host, yard.running.count)
