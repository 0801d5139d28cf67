"""What the processor offers, as this machine says it."""

import os

from core.process import cpu


def test_cores_are_between_one_and_the_affinity() -> None:
    """A quota can only take away, and never everything."""
    assert 1 <= cpu.available_cores() <= len(os.sched_getaffinity(0))


def test_affinity_is_respected() -> None:
    """A process pinned to one core counts one."""
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(whole)})
    try:
        assert 1 == cpu.available_cores()
    finally:
        os.sched_setaffinity(0, whole)
