"""What can be said of the Dockerfiles without building them; `make image-check` builds them."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.docker_build import commands
from tools.testbed.process import ROOT

ROLES = ["pod", "serverless"]


def instructions(role: str) -> list[str]:
    """One line per instruction, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / f"Dockerfile.{role}").read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line]


def stage(role: str, name: str) -> list[str]:
    """The instructions of one stage."""
    lines = instructions(role)
    start = next(index for index, line in enumerate(lines) if line.startswith("FROM") and line.endswith(f"AS {name}"))
    rest = lines[start + 1 :]
    end = next((index for index, line in enumerate(rest) if line.startswith("FROM")), len(rest))
    return rest[:end]


@pytest.mark.parametrize("role", ROLES)
def test_image_runs_as_an_ordinary_user(role: str) -> None:
    """By number, so that an orchestrator can see that it is not root."""
    users = [line for line in stage(role, "service") if line.startswith("USER")]

    assert ["USER 10001:10001"] == users


@pytest.mark.parametrize("role", ROLES)
def test_signals_reach_the_service(role: str) -> None:
    """A shell as process 1 would swallow SIGTERM."""
    assert instructions(role)[-1].startswith('CMD ["')


@pytest.mark.parametrize("role", ROLES)
def test_code_is_copied_after_everything_that_is_slow(role: str) -> None:
    """A changed line of code installs nothing and bakes nothing in the image's own layers."""
    lines = stage(role, "service")
    code = next(index for index, line in enumerate(lines) if "--from=code" in line)

    assert not [line for line in lines[code:] if line.startswith("RUN")]


def test_dependency_stages_are_the_same_in_both() -> None:
    """The same instructions give the same layers, which are stored and pulled once."""
    for name in ("torch", "core", "bake"):
        assert stage("pod", name) == stage("serverless", name)


def test_base_is_pinned() -> None:
    """To a patch release; `latest` is another image tomorrow."""
    for role in ROLES:
        assert re.fullmatch(r"ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm", instructions(role)[0])


def imported(module: Path, seen: set[Path]) -> set[Path]:
    """The files of `core` that a module needs when it is imported, packages included."""
    if module in seen:
        return seen
    seen.add(module)
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "core":
            package = Path(*node.module.split("."))
            files = [
                package.with_suffix(".py"),
                package / "__init__.py",
                *(package / f"{a.name}.py" for a in node.names),
            ]
            for file in files:
                if (ROOT / file).is_file():
                    imported(file, seen)
    return seen


@pytest.mark.parametrize("role", ROLES)
def test_baking_stage_has_what_baking_imports(role: str) -> None:
    """It copies single files and two rooms, so that other code does not bake again: none may be forgotten."""
    copied = " ".join(line for line in stage(role, "bake") if line.startswith("COPY core"))
    needed = imported(Path("core/clip/bake.py"), set()) | {Path("core/__init__.py")}
    rooms = ("core/clip/", "core/images/decoding/")
    forgotten = {str(path) for path in needed if str(path) not in copied and not str(path).startswith(rooms)}

    assert set() == forgotten
    assert all(f"COPY {room.rstrip('/')} " in copied for room in rooms)


def test_build_context_holds_no_secret_and_no_test() -> None:
    """Everything is ignored but what is named."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}

    assert "*" == rules[0]
    assert set() == allowed & {".env", ".git", "tests", "bench", "tools"}


def test_requirements_follow_extras_of_extras() -> None:
    """`pod` includes what `core` needs; an extra that does not exist ends the build."""
    script = [sys.executable, "deploy/requirements.py"]
    pod = subprocess.run([*script, "pod"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wrong = subprocess.run([*script, "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert {"torch==2.13.0", "gunicorn>=27"} <= set(pod)
    assert not [line for line in pod if line.startswith("clip-embedding-service")]
    assert 1 == wrong.returncode


def test_docker_build_names_both_images() -> None:
    """One command per image, with version and commit, and the choices of the environment."""
    pod, serverless = commands({"TORCH": "cpu", "IMAGE_PREFIX": "me/"}, "1.2.3", "abc")

    assert "--tag=me/clip-pod:1.2.3" in pod
    assert {"--build-arg=TORCH=cpu", "--build-arg=VERSION=1.2.3", "--build-arg=COMMIT=abc"} <= set(pod)
    assert "--file=Dockerfile.serverless" in serverless


def test_hadolint_finds_nothing() -> None:
    """The common mistakes of Dockerfiles."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    files = [f"Dockerfile.{role}" for role in ROLES]
    found = subprocess.run([hadolint, *files], cwd=ROOT, capture_output=True, text=True, check=False)

    assert "" == found.stdout
    assert 0 == found.returncode
