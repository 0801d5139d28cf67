"""The watchdog, one round at a time, over a real service with a scripted runtime and clock."""

from typing import Any

import pytest

from core.errors import NotReady
from core.service import Runtime, Service, Status
from core.settings import load_settings
from core.watchdog import Watchdog, WatchdogLimits

LIMITS = WatchdogLimits(forward_s=10.0, hub_s=5.0, grace_s=0.2, parting_s=0.0)


class ScriptedRuntime:
    """What a service asks its runtime, settable."""

    def __init__(self) -> None:
        self.is_healthy = True
        self.stuck_s = 0.0

    def runtime(self) -> Runtime:
        nothing: Any = None
        return Runtime(
            api=nothing,
            identity=nothing,
            torch_version="",
            cuda_version=None,
            check=lambda: None,
            healthy=lambda: self.is_healthy,
            forward_s=lambda: self.stuck_s,
            fail=self.fail,
            close=lambda: None,
        )

    def fail(self) -> None:
        self.is_healthy = False


class ScriptedClock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make(scripted: ScriptedRuntime, clock: ScriptedClock) -> tuple[Service, Watchdog, list[str]]:
    service = Service(load_settings({"ALLOW_INSECURE_AUTH": "1"}), scripted.runtime, clock=clock)
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


@pytest.mark.parametrize(
    ("stuck_s", "expected"), [pytest.param(10.0, None, id="at it"), pytest.param(10.1, "a forward", id="over it")]
)
def test_stuck_forward(stuck_s: float, expected: str | None) -> None:
    """A pass may take as long as the limit says, and no longer."""
    scripted = ScriptedRuntime()
    scripted.stuck_s = stuck_s
    _, watchdog, _ = make(scripted, ScriptedClock())

    assert (expected or "None") in str(watchdog.look())


def test_lost_device() -> None:
    """What the batcher found out by itself is enough."""
    scripted = ScriptedRuntime()
    _, watchdog, _ = make(scripted, ScriptedClock())
    scripted.is_healthy = False

    assert "the device is lost" == watchdog.look()


def test_stuck_hub() -> None:
    """A hub that has beaten and then falls silent is stuck; one that never began, or rests, is not."""
    clock = ScriptedClock()
    service, watchdog, _ = make(ScriptedRuntime(), clock)

    def look_for(seconds: float) -> str | None:
        found = None
        for _ in range(int(seconds)):
            clock.now_s += 1.0
            found = watchdog.look()
        return found

    never_beaten = look_for(6)
    service.beat()
    just_in_time = look_for(5)
    too_late = look_for(1)
    service.rest()

    assert [None, None] == [never_beaten, just_in_time]
    assert "stuck" in str(too_late)
    assert None is look_for(6)


def test_paused_machine_is_no_stuck_hub() -> None:
    """After a pause of the whole process everybody is late, the watchdog too."""
    clock = ScriptedClock()
    service, watchdog, _ = make(ScriptedRuntime(), clock)
    service.beat()
    clock.now_s += 3600.0
    after_pause = watchdog.look()
    clock.now_s += 0.5
    still_silent = watchdog.look()

    assert None is after_pause
    assert "stuck" in str(still_silent)


def test_giving_up_tells_those_who_wait_and_then_ends() -> None:
    """The service is unready before the process ends, and a request that holds on to its place delays it no longer
    than the grace."""

    class PassingClock(ScriptedClock):
        def __call__(self) -> float:
            self.now_s += 0.01
            return self.now_s

    service, watchdog, ended = make(ScriptedRuntime(), PassingClock())
    service.beat()
    with service.admitted():
        watchdog.give_up("test")
    with pytest.raises(NotReady), service.admitted():
        pass

    assert [Status.UNHEALTHY.value] == ended
