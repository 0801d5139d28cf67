"""Models to compare on: the bundled one always, a full-size one with random weights where its maker is at hand."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    target: Path = tmp_path_factory.mktemp("full-size")
    subprocess.run([sys.executable, _MAKE_FULL_SIZE, target], check=True, capture_output=True)
    return open_model(str(target))
