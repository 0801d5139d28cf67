"""Models to compare on: the bundled one always, a full-size one with random weights where its maker is at hand."""

import os
import subprocess
import sys

import pytest
from filelock import FileLock

from core.clip.artifact import ModelDirectory, open_model
from tools.testbed.process import ROOT, TINY_MODEL

_MAKE_FULL_SIZE = ROOT.parent / "shared" / "tools" / "make_random_clip.py"


@pytest.fixture(scope="session", params=["tiny-shapes", "full-size"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """A model directory of each size."""
    if request.param == "tiny-shapes":
        return open_model(str(TINY_MODEL))
    if not _MAKE_FULL_SIZE.is_file():
        pytest.skip(f"{_MAKE_FULL_SIZE} is not here")
    base = tmp_path_factory.getbasetemp()
    # One for all processes of a run: it takes seconds, and 600 MB.
    target = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "full-size"
    with FileLock(f"{target}.lock"):
        if not target.exists():
            made = base / "full-size-made"
            subprocess.run([sys.executable, _MAKE_FULL_SIZE, made], check=True, capture_output=True)
            made.rename(target)
    return open_model(str(target))
