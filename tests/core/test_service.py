"""The service as adapters see it: places, statuses, deadlines."""

from typing import Any

import pytest

from core.deadline import Cancellation
from core.errors import NotReady, Overloaded
from core.service import Service, Status
from core.settings import load_settings
from tests.core.test_watchdog import ScriptedRuntime

ENVIRONMENT = {"ALLOW_INSECURE_AUTH": "1", "MAX_CONCURRENT_REQUESTS": "2", "REQUEST_TIMEOUT_S": "90"}


def make(scripted: ScriptedRuntime | None = None) -> Service:
    service = Service(load_settings(ENVIRONMENT), lambda: scripted or ScriptedRuntime())
    service.load()
    return service


def test_places_are_bounded_and_given_back() -> None:
    """The third request at once is refused; when one has ended, the next gets its place."""
    service = make()
    with service.admitted():
        with service.admitted(), pytest.raises(Overloaded), service.admitted():
            pass
        with service.admitted():
            idle_inside = service.idle

    assert (False, True) == (idle_inside, service.idle)


def test_place_of_a_failed_request_is_given_back() -> None:
    """An error inside costs no place."""
    service = make()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), service.admitted():
            raise ZeroDivisionError

    assert service.idle


def test_nothing_is_admitted_unless_ok() -> None:
    """Loading, draining and unhealthy services refuse with a retryable error and say which they are."""
    scripted = ScriptedRuntime()
    loading = Service(load_settings(ENVIRONMENT), lambda: scripted)
    draining, unhealthy = make(), make(scripted)
    draining.drain()
    unhealthy.fail()

    assert [Status.LOADING, Status.DRAINING, Status.UNHEALTHY] == [
        service.status for service in (loading, draining, unhealthy)
    ]
    for service in (loading, draining, unhealthy):
        with pytest.raises(NotReady, match=service.status.value), service.admitted():
            pass


@pytest.mark.parametrize(
    ("asked_ms", "expected_s"),
    [
        pytest.param(None, 90.0, id="not asked"),
        pytest.param(500, 0.5, id="less"),
        pytest.param(900_000, 90.0, id="more than allowed"),
    ],
)
def test_deadline_is_capped(asked_ms: int | None, expected_s: float) -> None:
    """A caller may shorten its own time, never lengthen it."""
    deadline = make().deadline(asked_ms, Cancellation())

    assert expected_s == pytest.approx(deadline.remaining_s(), abs=0.4)


def test_deadline_ends_with_its_caller() -> None:
    """The adapter cancels when the caller has gone."""
    cancellation: Any = Cancellation()
    deadline = make().deadline(None, cancellation)
    cancellation.cancel()

    assert deadline.expired
