"""The RayJob of deploy/kubernetes: KubeRay's fields, Kubernetes' pods, and a command that bulk understands."""

import copy
import re
import shlex
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bulk.__main__ import main
from tests.deploy.test_manifests import KUBERNETES_VERSION
from tools.testbed.process import ROOT

Count = Annotated[int, Field(ge=0, strict=True)]
# What `ray start` is given: KubeRay takes strings alone.
Parameters = dict[str, Annotated[str, Field(strict=True)]]
AGENT_PORT = 52365


class Strict(BaseModel):
    """A field that KubeRay does not know is dropped by a cluster without a word, and so is refused here."""

    model_config = ConfigDict(extra="forbid")


# KubeRay has no package of schemas. These are fields of https://ray-project.github.io/kuberay/reference/api/ that a run
# may have use for; the pods are checked by Kubernetes' own schema.
class Authentication(Strict):
    mode: Literal["token", "disabled"]


class Head(Strict):
    rayStartParams: Parameters = {}  # noqa: N815 - KubeRay's names, here and below
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"  # noqa: N815
    template: dict[str, Any]


class Workers(Strict):
    groupName: str  # noqa: N815
    replicas: Count = 0
    minReplicas: Count = 0  # noqa: N815
    maxReplicas: Count = 2147483647  # noqa: N815
    numOfHosts: Count = 1  # noqa: N815
    rayStartParams: Parameters = {}  # noqa: N815
    template: dict[str, Any]


class Cluster(Strict):
    rayVersion: Annotated[str, Field(strict=True)]  # noqa: N815
    authOptions: Authentication | None = None  # noqa: N815
    enableInTreeAutoscaling: bool = False  # noqa: N815
    headGroupSpec: Head  # noqa: N815
    workerGroupSpecs: list[Workers] = []  # noqa: N815


class Job(Strict):
    entrypoint: str
    runtimeEnvYAML: str | None = None  # noqa: N815
    entrypointNumCpus: float = 0  # noqa: N815
    entrypointNumGpus: float = 0  # noqa: N815
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"  # noqa: N815
    backoffLimit: Count = 0  # noqa: N815
    activeDeadlineSeconds: Annotated[int, Field(gt=0)] | None = None  # noqa: N815
    shutdownAfterJobFinishes: bool = False  # noqa: N815
    ttlSecondsAfterFinished: Count = 0  # noqa: N815
    suspend: bool = False
    rayClusterSpec: Cluster  # noqa: N815


class Metadata(Strict):
    name: str
    namespace: str | None = None
    labels: dict[str, str] = {}


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: Job


def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "ray-bulk.yaml").read_text("utf-8"))
    return found


def cluster() -> Cluster:
    return RayJob.model_validate(document()).spec.rayClusterSpec


def groups() -> list[Any]:
    found = cluster()
    named = [("head", found.headGroupSpec.template)]
    named += [(group.groupName, group.template) for group in found.workerGroupSpecs]
    return [pytest.param(template["spec"], id=name) for name, template in named]


def container(spec: dict[str, Any]) -> dict[str, Any]:
    [only] = spec["containers"]
    found: dict[str, Any] = only
    return found


def test_job_has_documented_fields_only() -> None:
    """All are known to KubeRay, and of its types."""
    assert "clip-bulk" == RayJob.model_validate(document()).metadata.name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(("spec", "rayClusterSpecs"), {}, id="misspelt"),
        pytest.param(("spec", "submissionMode"), "HttpMode", id="no such mode"),
        pytest.param(("spec", "rayClusterSpec", "rayVersion"), 2.6, id="a version as a number"),
        pytest.param(("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, id="not a string"),
        pytest.param(("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replica"), 1, id="misspelt in a group"),
    ],
)
def test_check_of_jobs_can_fail(path: tuple[str | int, ...], value: object) -> None:
    """A cluster would drop or refuse it."""
    changed: Any = copy.deepcopy(document())
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    with pytest.raises(ValidationError):
        RayJob.model_validate(changed)


@pytest.mark.parametrize("spec", groups())
def test_pods_are_valid(spec: dict[str, Any]) -> None:
    """By the schema of Kubernetes, with no field that it does not know."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "clip-bulk"}, "spec": spec}

    assert KUBERNETES_VERSION == kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("spec", groups())
def test_pods_are_confined(spec: dict[str, Any]) -> None:
    """As those that serve: an ordinary user, no privileges, a read-only root, no token of the cluster's."""
    context = container(spec)["securityContext"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert {"drop": ["ALL"]} == context["capabilities"]


@pytest.mark.parametrize("spec", groups())
def test_pods_have_probes_of_their_own(spec: dict[str, Any]) -> None:
    """At the port of Ray's agent; without them KubeRay adds some that need wget, which the image has not."""
    ports = {port["name"]: port["containerPort"] for port in container(spec)["ports"]}
    asked = [container(spec)[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")]

    assert [AGENT_PORT] * 2 == [ports[name] for name in asked]


def test_whole_cluster_is_of_one_image_and_version() -> None:
    """Ray refuses a worker of another version; it is the one that the image has."""
    [pin] = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    images = {container(group.values[0])["image"] for group in groups()}

    assert pin == cluster().rayVersion
    assert 1 == len(images)


def test_cluster_refuses_strangers() -> None:
    """Ray itself runs whatever it is told by whoever reaches it."""
    assert Authentication(mode="token") == cluster().authOptions


def test_work_is_where_it_belongs() -> None:
    """None on the head; what needs a GPU has one, and says how many processors Ray may count with."""
    head, workers = cluster().headGroupSpec, cluster().workerGroupSpecs
    limits = {group.groupName: container(group.template["spec"])["resources"]["limits"] for group in workers}

    assert "0" == head.rayStartParams["num-cpus"]
    assert {"decode": False, "encode": True} == {name: "nvidia.com/gpu" in limit for name, limit in limits.items()}
    assert all("cpu" in limit for limit in limits.values())


def test_bulk_understands_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is not in the file is unknown to it; and a further attempt goes on."""
    python, dash_m, package, *arguments = shlex.split(RayJob.model_validate(document()).spec.entrypoint)

    with pytest.raises(SystemExit):
        main([*arguments, "--nonsense"], {})

    assert ["python", "-m", "bulk"] == [python, dash_m, package]
    assert capsys.readouterr().err.endswith("unrecognized arguments: --nonsense\n")
    assert "--resume" in arguments


def test_keys_come_from_a_secret_that_the_guide_makes() -> None:
    """By its name; none is in the file."""
    guide = (ROOT / "docs" / "bulk.md").read_text("utf-8")
    names = {source["secretRef"]["name"] for group in groups() for source in container(group.values[0])["envFrom"]}

    assert {"clip-bulk"} == names
    assert "kubectl create secret generic clip-bulk " in guide
