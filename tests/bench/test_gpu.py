"""What `make bench-gpu` says where there is no GPU."""

import os
import subprocess
import sys

from tools.testbed.process import ROOT


def test_without_a_device_it_ends_with_one_line() -> None:
    """A failure, that says what is in the way, and no table of zeros."""
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "bench.gpu"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "" == done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith("bench-gpu needs a CUDA device: ")
