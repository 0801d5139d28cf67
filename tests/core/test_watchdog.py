"""The watchdog, one round at a time, over a real service with a scripted runtime and clock."""

from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import NotReady
from core.metrics import Reading
from core.service import Service, Status
from core.settings import load_settings
from core.watchdog import Watchdog, WatchdogLimits

LIMITS = WatchdogLimits(forward_s=10.0, hub_s=5.0, grace_s=0.2, parting_s=0.0)
ROUND_S = 0.5


class ScriptedRuntime:
    """What a service asks its runtime, settable."""

    api: Any = None
    identity: Any = None
    torch_version = ""
    cuda_version: str | None = None

    def __init__(self) -> None:
        self.healthy = True
        self.serials: tuple[int | None, ...] = (None,)

    def readings(self) -> Iterator[Reading]:
        return iter(())

    def pass_serials(self) -> tuple[int | None, ...]:
        return self.serials

    def check(self) -> None: ...

    def fail(self) -> None:
        self.healthy = False

    def close(self) -> None: ...


class ScriptedClock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make(scripted: ScriptedRuntime, clock: ScriptedClock) -> tuple[Service, Watchdog, list[str]]:
    service = Service(load_settings({"ALLOW_INSECURE_AUTH": "1"}), lambda: scripted, clock=clock)
    service.load()
    ended: list[str] = []
    return service, Watchdog(service, LIMITS, end=lambda: ended.append(service.status.value), clock=clock), ended


def test_nothing_wrong() -> None:
    """A healthy service that is loading, serving or draining is left alone."""
    clock = ScriptedClock()
    service, watchdog, _ = make(ScriptedRuntime(), clock)
    service.beat()
    found = [watchdog.look()]
    service.drain()
    found.append(watchdog.look())

    assert [None, None] == found


def look_for(watchdog: Watchdog, clock: ScriptedClock, seconds: float) -> str | None:
    """What the last of the rounds finds that are held in so many seconds."""
    found = None
    for _ in range(int(seconds / ROUND_S)):
        clock.now_s += ROUND_S
        found = watchdog.look()
    return found


def test_stuck_forward() -> None:
    """A pass may take as long as the limit says, and no longer."""
    scripted, clock = ScriptedRuntime(), ScriptedClock()
    _, watchdog, _ = make(scripted, clock)
    scripted.serials = (1,)
    first_seen = watchdog.look()
    at_it = look_for(watchdog, clock, LIMITS.forward_s)
    over_it = look_for(watchdog, clock, ROUND_S)

    assert [None, None] == [first_seen, at_it]
    assert "a forward pass is stuck" == over_it


def test_pass_after_pass_is_not_stuck() -> None:
    """A device that is always busy, each time with another pass, does what it should."""
    scripted, clock = ScriptedRuntime(), ScriptedClock()
    _, watchdog, _ = make(scripted, clock)
    found = []
    for serial in range(100):
        scripted.serials = (serial,)
        found.append(look_for(watchdog, clock, LIMITS.forward_s - 1))

    assert {None} == set(found)


def test_one_of_several_devices_is_stuck() -> None:
    """That the others go on, or have nothing to do, does not hide it."""
    scripted, clock = ScriptedRuntime(), ScriptedClock()
    _, watchdog, _ = make(scripted, clock)
    found = None
    for serial in range(int(LIMITS.forward_s) + 2):
        scripted.serials = (serial, 7, None)
        found = look_for(watchdog, clock, 1.0)

    assert "a forward pass is stuck" == found


def test_lost_device() -> None:
    """What the batcher found out by itself is enough."""
    scripted = ScriptedRuntime()
    _, watchdog, _ = make(scripted, ScriptedClock())
    scripted.healthy = False

    assert "the device is lost" == watchdog.look()


def test_stuck_hub() -> None:
    """A hub that has beaten and then falls silent is stuck; one that never began, or rests, is not."""
    clock = ScriptedClock()
    service, watchdog, _ = make(ScriptedRuntime(), clock)
    never_beaten = look_for(watchdog, clock, 2 * LIMITS.hub_s)
    service.beat()
    watchdog.look()
    just_in_time = look_for(watchdog, clock, LIMITS.hub_s)
    too_late = look_for(watchdog, clock, ROUND_S)
    service.rest()

    assert [None, None] == [never_beaten, just_in_time]
    assert "the thread that holds the connections is stuck" == too_late
    assert None is look_for(watchdog, clock, 2 * LIMITS.hub_s)


@pytest.mark.parametrize("pause_s", [pytest.param(10.0, id="seconds"), pytest.param(86_400.0, id="a day")])
def test_pauses_are_no_hang(pause_s: float) -> None:
    """However long the whole process stands still, and however often: hub and pass lose a round by it, no more."""
    scripted, clock = ScriptedRuntime(), ScriptedClock()
    service, watchdog, _ = make(scripted, clock)
    found = []
    for number in range(20):
        service.beat()
        scripted.serials = (number // 5,)
        watchdog.look()
        clock.now_s += pause_s
        found.append(watchdog.look())

    assert {None} == set(found)


def test_what_is_stuck_is_found_between_pauses() -> None:
    """A process that is frozen again and again is not safe from the watchdog for that."""
    clock = ScriptedClock()
    service, watchdog, _ = make(ScriptedRuntime(), clock)
    service.beat()
    found = None
    for _ in range(20):
        clock.now_s += 3600.0
        found = watchdog.look()

    assert "stuck" in str(found)


def test_giving_up_tells_those_who_wait_and_then_ends() -> None:
    """The service is unready before the process ends, and a request that holds on to its place delays it no longer
    than the grace."""
    service, watchdog, ended = make(ScriptedRuntime(), ScriptedClock())
    service.beat()
    with service.admitted():
        watchdog.give_up("test")
    with pytest.raises(NotReady), service.admitted():
        pass

    assert [Status.UNHEALTHY.value] == ended
