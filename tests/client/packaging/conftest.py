"""The wheel and the environment that it is installed into, made once for all tests of the distribution."""

import sys
from pathlib import Path

import pytest

from tests.client.packaging.environment import Environment, called, copied_sources, require_index
from tools.testbed.process import ROOT


@pytest.fixture(scope="package")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of client/ that may be built in; needs a package index."""
    require_index(tmp_path_factory.mktemp("index"))
    return copied_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="package")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="package")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel and what it needs, in the versions that the service is tested with, and nothing else."""
    environment = Environment.made(Path(sys.executable), tmp_path_factory.mktemp("installed"))
    environment.install("-c", str(ROOT / "constraints.txt"), str(wheel))
    return environment


def built(sources: Path, folder: Path) -> Path:
    """The wheel of a folder, or of an sdist."""
    called([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(sources)])
    [wheel] = folder.glob("*.whl")
    return wheel
