"""The deployment files against the schemas of who reads them, and what they promise against the code."""

import json
import re
from typing import Any

import pytest
import yaml

from core.settings import ServiceSettings
from serverless.settings import HandlerSettings
from tools.docs_check.blocks import blocks_of
from tools.testbed.process import ROOT

KUBERNETES_VERSION = "1.34"
_DEFAULT = re.compile(r"\$\{\w+(?::-(?P<default>[^}]*)|:\?[^}]*)\}")


def manifest(name: str = "pod.yaml") -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / name).read_text("utf-8")))


def pod_spec() -> dict[str, Any]:
    spec: dict[str, Any] = manifest()[0]["spec"]["template"]["spec"]
    return spec


def compose() -> str:
    """The compose file with its variables replaced by their defaults."""
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    return _DEFAULT.sub(lambda match: match["default"] or "", text)


@pytest.mark.parametrize(
    "document", [pytest.param(document, id=document["kind"]) for document in (*manifest(), *manifest("hpa.yaml"))]
)
def test_kubernetes_manifest_is_valid(document: dict[str, Any]) -> None:
    """Every object fits the schema of its kind, with no field that Kubernetes does not know."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")

    assert KUBERNETES_VERSION == kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def test_kubernetes_waits_longer_than_the_drain() -> None:
    """SIGKILL must not come while what was accepted is still being answered."""
    assert pod_spec()["terminationGracePeriodSeconds"] > int(setting("DRAIN_TIMEOUT_S")) + 5


def setting(name: str) -> str:
    [value] = [variable["value"] for variable in pod_spec()["containers"][0]["env"] if variable["name"] == name]
    return str(value)


def test_decoders_fit_into_the_memory() -> None:
    """Whatever is sent: each with the most that it may take, beside a model and what requests may hold of images."""
    limit = pod_spec()["containers"][0]["resources"]["limits"]["memory"]
    most = {name: field.default for name, field in ServiceSettings.model_fields.items()}
    model_bytes = 3 * 2**30
    held_bytes = 2 * most["max_image_bytes_in_flight"]

    decoded_bytes = int(setting("IMAGE_PROCESSES")) * most["max_decode_bytes"]

    assert model_bytes + held_bytes + decoded_bytes <= int(limit.removesuffix("Gi")) * 2**30


def test_kubernetes_container_is_confined() -> None:
    """An ordinary user, no privileges, and a root that cannot be written."""
    context = pod_spec()["containers"][0]["securityContext"]

    assert pod_spec()["securityContext"]["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert {"drop": ["ALL"]} == context["capabilities"]


def in_the_guide(kind: str) -> dict[str, Any]:
    """The one of docs/observability.md's two ways to the pods that has such a field."""
    guide = (ROOT / "docs" / "observability.md").read_text("utf-8")
    blocks = [yaml.safe_load(block.text) for block in blocks_of(guide, "observability.md") if block.language == "yaml"]
    [found] = [block for block in blocks if kind in block]
    one: dict[str, Any] = found
    return one


def test_pods_are_found_in_one_way_only() -> None:
    """By its annotations the usual chart would know a pod too: twice then, and by a job that the alerts do not know."""
    metadata = manifest()[0]["spec"]["template"]["metadata"]

    assert [] == [name for name in metadata.get("annotations", {}) if name.startswith("prometheus.io/")]


def test_monitor_in_the_guide_finds_the_pods() -> None:
    """By the manifest's labels and port, as a job that the alerts know: theirs begin with "clip"."""
    monitor = in_the_guide("spec")["spec"]
    template = manifest()[0]["spec"]["template"]
    ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]

    assert monitor["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert ports == [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    assert template["metadata"]["labels"][monitor["jobLabel"]].startswith("clip")


def test_compose_file_is_valid() -> None:
    """It parses by the rules of the Compose specification."""
    compose_spec = pytest.importorskip("compose_spec")

    compose_spec.PyCompose.from_yaml(compose())


def test_compose_pod_is_confined_and_checked() -> None:
    """The local pod runs as the production one: read-only, without privileges, with time to drain."""
    pod = yaml.safe_load(compose())["services"]["pod"]

    assert pod["read_only"] is True
    assert ["/tmp"] == pod["tmpfs"]  # noqa: S108
    assert ["ALL"] == pod["cap_drop"]
    assert pod["ports"][0].startswith("127.0.0.1:")
    assert int(pod["stop_grace_period"].removesuffix("s")) > ServiceSettings.model_fields["drain_timeout_s"].default
    assert ["CMD", "python", "/app/healthcheck.py"] == pod["healthcheck"]["test"]


def cuda_of_the_image() -> str:
    """The CUDA version, such as `13.0`, whose libraries an image for GPUs holds."""
    [pin] = re.findall(r"^cuda-toolkit==(\d+\.\d+)\.", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    version: str = pin
    return version


def runpod_bodies() -> list[Any]:
    paths = sorted((ROOT / "deploy" / "runpod").glob("*.json"))
    return [pytest.param(json.loads(path.read_text("utf-8")), id=path.stem) for path in paths]


@pytest.mark.parametrize("body", runpod_bodies())
def test_runpod_gives_hosts_whose_driver_knows_the_images_cuda(body: dict[str, Any]) -> None:
    """On an older one the container would not start, and be paid for while it tries."""
    assert cuda_of_the_image() == body["gpu"]["minCudaVersion"]


@pytest.mark.parametrize(
    "path", [".runpod/hub.json", ".runpod/tests.json", "deploy/runpod/hub-load-balancing/hub.json"]
)
def test_hub_gives_hosts_whose_driver_knows_the_images_cuda(path: str) -> None:
    """The hub's name for it is a list of all that will do."""
    config = json.loads((ROOT / path).read_text("utf-8"))["config"]

    assert [cuda_of_the_image()] == config["allowedCudaVersions"]


def test_command_in_the_guide_asks_for_the_images_cuda() -> None:
    """The same pod, made with the command line tool."""
    guide = (ROOT / "docs" / "deploy.md").read_text("utf-8")

    assert [cuda_of_the_image()] == re.findall(r"--min-cuda-version (\S+)", guide)


def test_libraries_of_a_gpu_build_are_pinned() -> None:
    """All of one CUDA release: two builds of one commit hold the same libraries."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line)
    cuda = {name: pin for name, pin in pins.items() if name.startswith(("cuda-", "nvidia-")) or name == "triton"}

    assert {"cuda-bindings", "nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cudnn-cu13", "triton"} < set(cuda)
    for name in ("cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-nvjitlink"):
        assert cuda[name].startswith(f"{cuda_of_the_image()}.")


def test_endpoint_scales_by_what_a_worker_takes() -> None:
    """One more worker for every worker's fill of jobs, no more and no less."""
    body = json.loads((ROOT / "deploy" / "runpod" / "serverless.json").read_text("utf-8"))

    assert "REQUEST_COUNT" == body["scaling"]["type"]
    assert HandlerSettings.model_fields["serverless_concurrency"].default == body["scaling"]["requestCount"]


def test_load_balancing_endpoint_names_one_port() -> None:
    """Requests and health checks go to the port that the pod listens on, and that port is exposed."""
    body = json.loads((ROOT / "deploy" / "runpod" / "load-balancing.json").read_text("utf-8"))

    assert body["env"]["PORT"] == body["env"]["PORT_HEALTH"]
    assert [f"{body['env']['PORT']}/http"] == body["ports"]
