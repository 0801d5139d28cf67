"""The breaker's transitions, with time as an argument."""

import pytest
from clip_embedding_client.breaker import Admission, Breaker, State

from tests.client.scripted import FakeTime

COOL_DOWN_S = 30.0


def breaker_at(time: FakeTime) -> Breaker:
    return Breaker(max_failures=2, cool_down_s=COOL_DOWN_S, monotonic=time.read)


def admitted(breaker: Breaker) -> Admission:
    admission = breaker.admit()
    assert admission is not None
    return admission


def opened(time: FakeTime) -> Breaker:
    breaker = breaker_at(time)
    reports = [breaker.failed(admitted(breaker)) for _ in range(2)]
    assert [False, True] == reports
    return breaker


def test_opens_after_failures_in_a_row() -> None:
    """The second failure opens it, and only that one says so."""
    breaker = opened(FakeTime())

    assert (State.OPEN, None) == (breaker.state, breaker.admit())


def test_a_success_starts_the_count_again() -> None:
    """Failures that do not follow each other are not a breakdown."""
    breaker = breaker_at(FakeTime())
    breaker.failed(admitted(breaker))
    breaker.succeeded(admitted(breaker))
    breaker.failed(admitted(breaker))

    assert State.CLOSED is breaker.state


@pytest.mark.parametrize(
    ("waited_s", "is_admitted"),
    [pytest.param(COOL_DOWN_S - 1, False, id="a second early"), pytest.param(COOL_DOWN_S, True, id="in time")],
)
def test_cool_down(waited_s: float, is_admitted: bool) -> None:
    """After the cool-down one call is let through as the probe, and nothing beside it."""
    time = FakeTime()
    breaker = opened(time)
    time.now_s += waited_s

    admission = breaker.admit()

    assert is_admitted is (admission is not None and admission.is_probe)
    assert None is breaker.admit()


def test_probe_that_succeeds_closes() -> None:
    """The probe's success lets everything through again, and says so."""
    time = FakeTime()
    breaker = opened(time)
    time.now_s += COOL_DOWN_S

    assert breaker.succeeded(admitted(breaker)) is True
    assert (State.CLOSED, False) == (breaker.state, admitted(breaker).is_probe)


def test_probe_that_fails_opens_again() -> None:
    """The cool-down begins anew; nothing was switched, so nothing is said."""
    time = FakeTime()
    breaker = opened(time)
    time.now_s += COOL_DOWN_S

    assert breaker.failed(admitted(breaker)) is False
    time.now_s += COOL_DOWN_S - 1
    assert None is breaker.admit()
    time.now_s += 1
    assert admitted(breaker).is_probe


def test_late_reports_count_no_more() -> None:
    """A call from before the change of state says nothing about the backend now."""
    time = FakeTime()
    breaker = breaker_at(time)
    early, late, last = (admitted(breaker) for _ in range(3))
    breaker.failed(early)
    breaker.failed(late)
    time.now_s += COOL_DOWN_S
    probe = admitted(breaker)

    assert [False, False] == [breaker.succeeded(last), breaker.failed(last)]
    assert State.HALF_OPEN is breaker.state
    assert breaker.succeeded(probe) is True


def with_two_probes() -> tuple[Breaker, list[Admission]]:
    """Each takes longer than the cool-down, so another is let in beside it."""
    time = FakeTime()
    breaker = opened(time)
    probes = []
    for _ in range(2):
        time.now_s += COOL_DOWN_S
        probes.append(admitted(breaker))
    return breaker, probes


@pytest.mark.parametrize("late", [pytest.param(0, id="the first"), pytest.param(1, id="the second")])
def test_slow_probes_close_it(late: int) -> None:
    """Whichever succeeds first is enough."""
    breaker, probes = with_two_probes()

    assert breaker.succeeded(probes[late]) is True
    assert [State.CLOSED, False] == [breaker.state, breaker.succeeded(probes[1 - late])]


def test_slow_probe_that_succeeds_after_another_has_failed() -> None:
    """What came last says how the backend is now."""
    breaker, probes = with_two_probes()

    assert breaker.failed(probes[0]) is False
    assert breaker.succeeded(probes[1]) is True
    assert State.CLOSED is breaker.state


def test_probe_that_never_reports() -> None:
    """A probe whose thread died does not block the way for ever: another follows after the cool-down."""
    time = FakeTime()
    breaker = opened(time)
    time.now_s += COOL_DOWN_S
    admitted(breaker)
    time.now_s += COOL_DOWN_S

    assert admitted(breaker).is_probe
