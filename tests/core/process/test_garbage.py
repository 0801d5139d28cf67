"""The collector is off while something loads, on afterwards, and leaves alone what was loaded."""

import gc
import subprocess
import sys
import weakref

import pytest

from core.process.garbage import collected_before

# In a process of its own: freezing cannot be undone for the objects of the tests.
_PROGRAM = """
import gc
from core.process.garbage import kept_from_collector

try:
    with kept_from_collector():
        inside = gc.isenabled()
        raise ValueError
except ValueError:
    pass
print(inside, gc.isenabled(), gc.get_freeze_count() > 1000)
"""


def test_collector_rests_inside_and_works_afterwards() -> None:
    """Also when loading fails, and what was there by then is frozen."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)

    assert "False True True\n" == done.stdout


class Knot:
    """Garbage once it is let go of."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_first_and_then_left_alone(enabled: bool) -> None:
    """Nothing is collected inside the block, and the collector is left as it was found."""
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        earlier = weakref.ref(Knot())
        with collected_before():
            assert earlier() is None
            inside = weakref.ref(Knot())
            _ = [[] for _ in range(10_000)]
            assert inside() is not None
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
