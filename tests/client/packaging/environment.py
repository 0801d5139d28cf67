"""Virtual environments as users of the client have them: nothing of this checkout, and no more than was installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.docs_check.shell import clean_environment
from tools.testbed.process import ROOT

# What a machine has left in its checkout; an old build/ would even get into the wheel.
_LEFT_OVER = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")


@dataclass(frozen=True, slots=True)
class Environment:
    """A venv in `folder`."""

    folder: Path

    @classmethod
    def made(cls, interpreter: Path, folder: Path) -> Environment:
        """A new one, of this Python. It has no pip of its own: that of this machine's tests installs."""
        called([str(interpreter), "-m", "venv", "--without-pip", str(folder)])
        return cls(folder)

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def install(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python]
        called([*pip, "install", "--quiet", "--no-compile", *arguments])

    def run(self, *arguments: str, **variables: str) -> str:
        """What this environment's Python prints. Warnings are errors."""
        return called([self.python, "-W", "error", *arguments], variables=variables)

    def script(self, name: str, *arguments: str) -> str:
        """What an installed command prints."""
        return called([str(self.folder / "bin" / name), *arguments])


def called(command: list[str], *, folder: Path | None = None, variables: Mapping[str, str] | None = None) -> str:
    """What a command prints; the test fails with what it says if the command does."""
    done = subprocess.run(
        command,
        cwd=folder or "/",
        env=clean_environment() | dict(variables or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copied_sources(folder: Path) -> Path:
    """The client beside what its links lead to, as in a checkout: building writes into its folder."""
    for name in ("client", "shared_auth", "shared_tracing"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=_LEFT_OVER)
    return folder / "client"


def require_index(folder: Path) -> None:
    """Skip, and say why, where the build backend and what the client depends on cannot be had."""
    asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run(
        [*asked, "setuptools", "tqdm"], env=clean_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")


def interpreter(version: str) -> Path | None:
    """A Python of this version, from pyenv or the PATH. pyenv puts names there behind which there is nothing."""
    for candidate in _candidates(version):
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith(f"Python {version}."):
            return candidate
    return None


def _candidates(version: str) -> Iterator[Path]:
    if pyenv := shutil.which("pyenv"):
        root = Path(called([pyenv, "root"]).strip())
        yield from sorted(root.glob(f"versions/{version}.*/bin/python"))
    if found := shutil.which(f"python{version}"):
        yield Path(found)
