"""The distribution: what is in it, that it stands alone, and that it runs on every Python it names."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.client.packaging import example
from tests.client.packaging.conftest import built
from tests.client.packaging.environment import Environment, called, interpreter
from tools.testbed.image_server import ImageServer
from tools.testbed.pictures import encoded, natural
from tools.testbed.process import ROOT, SECRET, PodProcess

PACKAGE = ROOT / "client" / "src" / "clip_embedding_client"
PROJECT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text("utf-8"))["project"]
# Of this repository, and none of a user's.
SHARED = ("shared_auth", "shared_tracing")
NAMES_OF_THE_SERVICE = ("core", "pod", "serverless", *SHARED, "worker", "models", "tools", "tests", "bench")
# What an import of the client may not cost, beside the service itself.
NOT_IMPORTED = ("core", "torch", "pydantic", "flask", "PIL", "pyarrow", "httpx", "anyio", "tqdm")


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel by name, without the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """A subpackage or a marker for types that pyproject.toml forgets would be missing at users only."""
    packed = {name for name in contents(wheel) if ".dist-info/" not in name}
    # Not rglob: it follows no link, and the signing module is one.
    found = {
        (Path(folder) / name).relative_to(PACKAGE.parent).as_posix()
        for folder, _, names in os.walk(PACKAGE, followlinks=True)
        for name in names
        if not name.endswith(".pyc")
    }

    assert found == packed


@pytest.mark.parametrize(
    ("module", "shared"),
    [
        pytest.param("signing", "shared_auth", id="signing"),
        pytest.param("tracing", "shared_tracing", id="tracing"),
    ],
)
def test_shared_module_inside_is_the_services(wheel: Path, module: str, shared: str) -> None:
    """There is one rule for signing, and one for traces; the wheel has a copy of each, byte by byte."""
    prefix = f"clip_embedding_client/{module}/"
    inside = {name.removeprefix(prefix): data for name, data in contents(wheel).items() if name.startswith(prefix)}

    assert {path.name: path.read_bytes() for path in (ROOT / shared).iterdir() if path.is_file()} == inside


def test_sdist_gives_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    """The link to the signing module leads out of the sdist's folder: what it leads to must be inside."""
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    backend = Environment.made(Path(sys.executable), tmp_path / "backend")
    backend.install("setuptools>=77")
    called([backend.python, "-c", build, str(tmp_path)], folder=sources)
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert [] == [member.name for member in archive if member.issym() or member.islnk()]

    assert contents(wheel) == contents(built(sdist, tmp_path / "wheel"))


def test_only_one_name_can_be_imported(installed: Environment) -> None:
    """`core`, `pod` or `tools` of a user's own must not meet ours."""
    script = (
        "import importlib.metadata as m, importlib.util as u, json, sys;"
        "ours = [name for name, of in m.packages_distributions().items() if 'clip-embedding-client' in of];"
        "print(json.dumps([ours, [name for name in sys.argv[1:] if u.find_spec(name)]]))"
    )

    assert [["clip_embedding_client"], []] == json.loads(installed.run("-I", "-c", script, *NAMES_OF_THE_SERVICE))


def test_all_that_is_promised_can_be_imported(installed: Environment) -> None:
    """Every name of `__all__`, those that are imported late too; and no other name is taken for one."""
    script = (
        "import clip_embedding_client as c; from clip_embedding_client import *;"
        "missing = [name for name in c.__all__ if name not in globals()];"
        "print(missing, set(c.__all__) - set(dir(c)), hasattr(c, 'AnotherClient'))"
    )

    assert "[] set() False" == installed.run("-c", script).strip()


def test_command_is_installed(installed: Environment) -> None:
    """With each of its commands."""
    shown = installed.script("clip-embed", "--help")

    assert {"embed", "probe", "search", "smoke"} <= set(shown.replace(",", " ").replace("{", " ").split())


def test_signing_by_hand_is_installed(installed: Environment) -> None:
    """Under the name by which it is called there."""
    shown = installed.run("-m", "clip_embedding_client.signing", "--help")

    assert shown.startswith("usage: python -m clip_embedding_client.signing")


def test_import_costs_little() -> None:
    """Here, where all of these are installed: what is not needed is not imported, nor is httpx without asyncio."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import clip_embedding_client as c;"
        "print(*(name for name in sys.argv[2:] if name in sys.modules));"
        "c.AsyncClipClient; print('httpx' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-I", "-c", script, str(PACKAGE.parent), *NOT_IMPORTED],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "\nTrue\n" == shown


def floors() -> list[str]:
    """The oldest versions that pyproject.toml promises to work with, exactly."""
    return [requirement.split(",")[0].replace(">=", "==") for requirement in PROJECT["dependencies"]]


def test_every_dependency_has_a_floor() -> None:
    """One without would be promised in every version there ever was."""
    assert [] == [floor for floor in floors() if "==" not in floor]


@pytest.mark.parametrize(
    ("version", "requirements"),
    [
        pytest.param("3.10", floors(), id="3.10 with the oldest dependencies"),
        pytest.param("3.10", [], id="3.10"),
        pytest.param("3.11", [], id="3.11"),
        pytest.param("3.12", [], id="3.12"),
        pytest.param("3.13", [], id="3.13"),
    ],
)
def test_both_clients_run(
    wheel: Path, tmp_path: Path, pod: PodProcess, images: ImageServer, version: str, requirements: list[str]
) -> None:
    """On each Python, with what its package index gives: a real pod's vectors, and the same from both."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not installed")
    environment = Environment.made(python, tmp_path / "venv")
    environment.install(str(wheel), *requirements)
    url = images.add("/packaging.png", encoded(natural(64, 64), "PNG"))

    shown = environment.run(
        example.__file__,
        url,
        CLIP_INFERENCE_BACKEND="runpod_pod",
        CLIP_POD_BASE_URL=pod.base_url,
        EMBEDDING_HMAC_SECRET=SECRET,
    )

    # A text, the copies, and one of its own name; what is missing has no row.
    assert "42 512" == shown.strip()
