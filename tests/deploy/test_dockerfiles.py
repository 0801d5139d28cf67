"""What can be said of the Dockerfiles without building them; `make image-check` builds them."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.source import parsed
from tools.docker_build import commands
from tools.testbed.process import ROOT

ROLES = ["pod", "serverless"]


def instructions(role: str) -> list[str]:
    """One line per instruction, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / f"Dockerfile.{role}").read_text("utf-8"), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line]


def stage(role: str, name: str) -> list[str]:
    """The instructions of one stage."""
    lines = instructions(role)
    start = next(index for index, line in enumerate(lines) if line.startswith("FROM") and line.endswith(f"AS {name}"))
    rest = lines[start + 1 :]
    end = next((index for index, line in enumerate(rest) if line.startswith("FROM")), len(rest))
    return rest[:end]


def environment(role: str, torch: str) -> dict[str, str]:
    """The environment that the image is given when it is built with this TORCH, stage by stage."""
    variables: dict[str, str] = {}
    name = "service"
    while True:
        [start] = [line for line in instructions(role) if line.startswith("FROM") and line.endswith(f" AS {name}")]
        for line in stage(role, name):
            if line.startswith("ENV "):
                # What a stage sets wins over what it is built on.
                variables = dict(re.findall(r"(\w+)=(\S+)", line)) | variables
        name = start.split()[1].replace("${TORCH}", torch)
        if name == "${BASE_IMAGE}":
            return variables


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
    for name in ("torch", "core", "bake", "device-cuda", "device-cu126", "device-cpu"):
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
    for node in ast.walk(parsed(ROOT / module)):
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


@pytest.mark.parametrize("role", ROLES)
def test_code_stage_has_every_package(role: str) -> None:
    """It installs the project, and pip refuses one that names a folder which is not there."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    copied = {line.split()[1] for line in stage(role, "code") if line.startswith("COPY")}

    assert set() == {package.partition(".")[0] for package in packages} - copied
    assert set() == copied - allowed_in_the_build()


def allowed_in_the_build() -> set[str]:
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    return {rule[1:] for rule in rules if rule.startswith("!")}


def test_pod_image_can_embed_tables_too() -> None:
    """The extras that the comment in the Dockerfile names exist, and bring Ray with its dashboard."""
    [extras] = re.findall(r"([\w,-]+) for one that also embeds", (ROOT / "Dockerfile.pod").read_text("utf-8"))
    script = [sys.executable, "deploy/requirements.py", extras]
    needed = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    assert {"ray[data]", "ray[default]", "gunicorn>=27"} <= set(needed)


def test_build_context_holds_no_secret_and_no_test() -> None:
    """Everything is ignored but what is named."""
    rules = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
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


@pytest.mark.parametrize("role", ROLES)
def test_docker_build_passes_on_what_a_dockerfile_takes(role: str) -> None:
    """An argument that the Dockerfile reads and the command does not hand over would be set in vain."""
    taken = {line.split()[1].partition("=")[0] for line in instructions(role) if line.startswith("ARG ")}
    command = commands(dict.fromkeys(taken, "x"), "1.2.3", "abc")[ROLES.index(role)]
    passed = {argument.split("=")[1] for argument in command if argument.startswith("--build-arg=")}

    assert taken == passed


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("torch", "device"),
    [
        pytest.param("cuda", "cuda", id="cuda"),
        pytest.param("cu126", "cuda", id="cu126"),
        pytest.param("cpu", "auto", id="cpu"),
    ],
)
def test_image_for_gpus_asks_for_one(role: str, torch: str, device: str) -> None:
    """With `auto` a pod that has lost its GPU would serve from the host's CPU, and be well."""
    assert device == environment(role, torch)["CLIP_DEVICE"]


@pytest.mark.parametrize("role", ROLES)
def test_every_torch_that_can_be_asked_for_has_a_device(role: str) -> None:
    """What the first stage lets through, the last one is built on."""
    [check] = [line for line in stage(role, "requirements") if line.startswith("RUN case")]
    choices = {choice for arm in re.findall(r"([\w|]+)\) extras=", check) for choice in arm.split("|")}
    devices = {line.split("AS device-")[1] for line in instructions(role) if "AS device-" in line}

    assert {"cuda", "cu126", "cpu"} == choices == devices


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("torch", "built", "status"),
    [
        pytest.param("cuda", "'13.0'", 0, id="cuda"),
        pytest.param("cuda", "None", 1, id="a CPU's for cuda"),
        pytest.param("cu126", "'12.6'", 0, id="cu126"),
        pytest.param("cu126", "'13.0'", 1, id="the default for cu126"),
        pytest.param("cpu", "None", 0, id="cpu"),
        pytest.param("cpu", "'13.0'", 0, id="without an index of CPU wheels"),
    ],
)
def test_build_ends_when_the_index_gave_another_torch(
    tmp_path: Path, role: str, torch: str, built: str, status: int
) -> None:
    """The stage's own shell, with what installs and removes left out: pip takes whatever satisfies the version."""
    [run] = [line for line in stage(role, "torch") if line.startswith("RUN ")]
    choice = run.removeprefix("RUN ").partition(" && if [")[0]
    [check] = re.findall(r"if ! grep.*?fi", run)
    (tmp_path / "version.py").write_text(f"cuda: Optional[str] = {built}\n")
    script = f"{choice} && torch=. && {check}"
    variables = {"TORCH": torch, "TORCH_CPU_INDEX": "", "TORCH_CU126_INDEX": "https://index.example/cu126"}

    done = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, env=variables, capture_output=True, check=False)

    assert status == done.returncode


@pytest.mark.parametrize("role", ROLES)
def test_wheels_for_an_older_cuda_need_their_index(role: str) -> None:
    """Without it pip would take the default build, which those hosts cannot run."""
    [run] = [line for line in stage(role, "torch") if line.startswith("RUN ")]
    choice = run.removeprefix("RUN ").partition(" && if [")[0]

    done = subprocess.run(
        ["/bin/sh", "-c", choice], env={"TORCH": "cu126"}, capture_output=True, text=True, check=False
    )

    assert 0 != done.returncode
    assert "TORCH_CU126_INDEX" in done.stderr


def test_hadolint_finds_nothing() -> None:
    """The common mistakes of Dockerfiles."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    files = [f"Dockerfile.{role}" for role in ROLES]
    found = subprocess.run([hadolint, *files], cwd=ROOT, capture_output=True, text=True, check=False)

    assert "" == found.stdout
    assert 0 == found.returncode
