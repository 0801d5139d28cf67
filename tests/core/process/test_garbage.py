"""The collector is off while something loads, on afterwards, and leaves alone what was loaded."""

import subprocess
import sys

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
