"""Every variable that a deployment file or document names is one that the code reads, spelled the same."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from clip_embedding_client.settings import ClientSettings

from core.metrics import GONE
from core.settings import ServiceSettings
from serverless.settings import HandlerSettings
from tests.core.test_errors import leaves
from tools.testbed.process import ROOT

SERVICE = {name.upper() for name in HandlerSettings.model_fields | ServiceSettings.model_fields}
CLIENT = {each.name.upper() for each in fields(ClientSettings)}

# Read by something else than our settings, and by what.
OTHERS = {
    "PATH": "the shell",
    "HOME": "libraries, for their caches",
    "PYTHONPATH": "Python",
    "PYTHONUNBUFFERED": "Python",
    "PYTHONDONTWRITEBYTECODE": "Python",
    "HF_HUB_OFFLINE": "huggingface_hub",
    "AWS_ACCESS_KEY_ID": "whatever opens files on S3",
    "NVIDIA_VISIBLE_DEVICES": "the NVIDIA container toolkit",
    "NVIDIA_DRIVER_CAPABILITIES": "the NVIDIA container toolkit",
    "PORT_HEALTH": "RunPod's load balancer",
    "HEALTH_CHECK_PATH": "RunPod's load balancer",
    "SMOKE_IMAGE_URL": "make smoke",
    "SERVERLESS_PORT": "make run-serverless",
    "TARGET": "make smoke",
    "TORCH": "make docker-build",
    "MODEL": "make docker-build",
    "MODEL_REVISION": "make docker-build",
    "MODEL_FINGERPRINT": "make docker-build",
    "IMAGE_PREFIX": "make docker-build",
    "BASE_IMAGE": "make docker-build",
    "TORCH_CPU_INDEX": "make docker-build",
    "TORCH_CU126_INDEX": "make docker-build",
    "EXTRAS": "make docker-build",
    "VERSION": "the Dockerfiles",
    "COMMIT": "the Dockerfiles",
    "API": "a shell variable of docs/deploy.md",
    "POD_ID": "a shell variable of docs/deploy.md",
    "ENDPOINT_ID": "a shell variable of docs/deploy.md",
    "REQUEST_COUNT": "a value of RunPod's API",
    "QUEUE_DELAY": "a value of RunPod's API",
    "LOAD_BALANCER": "a value of RunPod's API",
    "HEALTHCHECK": "an instruction of a Dockerfile",
}

_CONSTANT = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
# What the documents write in capitals with an underscore and is no variable.
_OTHER_WORDS = {leaf.code for leaf in leaves()} | {GONE, "IN_QUEUE", "IN_PROGRESS", "ADA_24"}


def of_compose() -> Iterator[str]:
    for service in yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"].values():
        yield from service["environment"]


def of_kubernetes() -> Iterator[str]:
    for document in yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "pod.yaml").read_text("utf-8")):
        if document["kind"] == "Deployment":
            for container in document["spec"]["template"]["spec"]["containers"]:
                yield from (variable["name"] for variable in container["env"])


def of_runpod_bodies() -> Iterator[str]:
    for path in (ROOT / "deploy" / "runpod").glob("*.json"):
        body: dict[str, Any] = json.loads(path.read_text("utf-8"))
        yield from body["env"]


def of_dockerfile(role: str) -> Iterator[str]:
    text = (ROOT / f"Dockerfile.{role}").read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE):
        yield from re.findall(r"(\w+)=", line)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(of_compose, id="docker-compose.yml"),
        pytest.param(of_kubernetes, id="kubernetes"),
        pytest.param(of_runpod_bodies, id="runpod"),
        pytest.param(lambda: of_dockerfile("pod"), id="Dockerfile.pod"),
        pytest.param(lambda: of_dockerfile("serverless"), id="Dockerfile.serverless"),
    ],
)
def test_variables_of_containers_are_settings_of_the_service(names: Any) -> None:  # noqa: ANN401
    """What a container is given, it reads."""
    named = set(names())

    assert named
    assert set() == named - SERVICE - set(OTHERS)


def documents() -> list[Path]:
    pages = [
        ROOT / "docs" / "deploy.md",
        ROOT / "docs" / "observability.md",
        *(ROOT / "docs" / "runbooks").glob("*.md"),
    ]
    return [*pages, *(ROOT / "deploy").rglob("*.yaml"), ROOT / "docker-compose.yml"]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in documents()])
def test_variables_of_documents_exist(path: Path) -> None:
    """A reader who sets what a document names sets something."""
    named = set(_CONSTANT.findall(path.read_text("utf-8"))) - _OTHER_WORDS

    assert set() == named - SERVICE - CLIENT - set(OTHERS)
