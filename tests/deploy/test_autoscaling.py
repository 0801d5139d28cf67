"""The two autoscalers of deploy/kubernetes: each fits its reader's schema, and both are one rule."""

import copy
import re
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from bench.scaling.__main__ import rule_of
from bench.scaling.places import ScalingRule
from tools.testbed.process import ROOT

METRIC = "clip_queued_seconds"
FOLDER = ROOT / "deploy" / "kubernetes"

Count = Annotated[int, Field(ge=0, strict=True)]
Flag = Literal["true", "false"]
Number = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?$")]


class Strict(BaseModel):
    """A field that KEDA does not know is dropped by a cluster without a word, and so is refused here."""

    model_config = ConfigDict(extra="forbid")


# KEDA has no package of schemas. These are its documented fields, of https://keda.sh/docs/latest/reference/
# scaledobject-spec and https://keda.sh/docs/latest/scalers/prometheus; values in `metadata` are always strings.
class Target(Strict):
    name: str
    apiVersion: str = "apps/v1"  # noqa: N815 - KEDA's names, here and below
    kind: str = "Deployment"
    envSourceContainerName: str | None = None  # noqa: N815


class Fallback(Strict):
    failureThreshold: Count  # noqa: N815
    replicas: Count
    behavior: Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"] = "static"


class Policy(Strict):
    type: Literal["Pods", "Percent"]
    value: Count
    periodSeconds: Annotated[int, Field(gt=0, le=1800)]  # noqa: N815


class Direction(Strict):
    stabilizationWindowSeconds: Annotated[int, Field(ge=0, le=3600)] | None = None  # noqa: N815
    selectPolicy: Literal["Max", "Min", "Disabled"] = "Max"  # noqa: N815
    policies: list[Policy] = []


class Behavior(Strict):
    scaleUp: Direction | None = None  # noqa: N815
    scaleDown: Direction | None = None  # noqa: N815


class AutoscalerConfig(Strict):
    name: str | None = None
    behavior: Behavior | None = None


class Advanced(Strict):
    restoreToOriginalReplicaCount: bool = False  # noqa: N815
    horizontalPodAutoscalerConfig: AutoscalerConfig | None = None  # noqa: N815


class PrometheusQuery(Strict):
    serverAddress: Annotated[str, StringConstraints(pattern=r"^https?://[^/]+$")]  # noqa: N815
    query: str
    threshold: Number
    activationThreshold: Number | None = None  # noqa: N815
    namespace: str | None = None
    customHeaders: str | None = None  # noqa: N815
    queryParameters: str | None = None  # noqa: N815
    ignoreNullValues: Flag = "true"  # noqa: N815
    unsafeSsl: Flag = "false"  # noqa: N815
    timeout: Number | None = None


class Trigger(Strict):
    type: Literal["prometheus"]
    metadata: PrometheusQuery
    name: str | None = None
    metricType: Literal["AverageValue", "Value"] = "AverageValue"  # noqa: N815
    useCachedMetrics: bool = False  # noqa: N815


class Spec(Strict):
    scaleTargetRef: Target  # noqa: N815
    triggers: Annotated[list[Trigger], Field(min_length=1)]
    pollingInterval: Count = 30  # noqa: N815
    cooldownPeriod: Count = 300  # noqa: N815
    initialCooldownPeriod: Count = 0  # noqa: N815
    idleReplicaCount: Literal[0] | None = None  # noqa: N815
    minReplicaCount: Count = 0  # noqa: N815
    maxReplicaCount: Count = 100  # noqa: N815
    fallback: Fallback | None = None
    advanced: Advanced | None = None


class Metadata(Strict):
    name: str
    namespace: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class ScaledObject(Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]  # noqa: N815
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: Spec


def document(name: str) -> dict[str, Any]:
    [only] = yaml.safe_load_all((FOLDER / name).read_text("utf-8"))
    found: dict[str, Any] = only
    return found


def hpa_rule() -> ScalingRule:
    """What Kubernetes' own autoscaler is told, in the terms of the other one."""
    spec = document("hpa.yaml")["spec"]
    [metric] = spec["metrics"]
    milliseconds = re.fullmatch(r"(\d+)m", metric["pods"]["target"]["averageValue"])
    assert milliseconds
    return ScalingRule(
        int(milliseconds[1]) / 1000,
        spec["minReplicas"],
        spec["maxReplicas"],
        60.0,
        spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"],
    )


def test_scaled_object_has_documented_fields_only() -> None:
    """All are known to KEDA, and of its types."""
    scaled = ScaledObject.model_validate(document("keda.yaml"))

    assert 0 < scaled.spec.minReplicaCount <= scaled.spec.maxReplicaCount


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(("spec", "minReplicas"), 1, id="the other autoscaler's name"),
        pytest.param(("spec", "triggers", 0, "metadata", "treshold"), "1", id="misspelt"),
        pytest.param(("spec", "triggers", 0, "metadata", "threshold"), 0.2, id="a number, not a string"),
        pytest.param(("spec", "fallback", "behavior"), "keep", id="no such behaviour"),
    ],
)
def test_check_of_scaled_objects_can_fail(path: tuple[str | int, ...], value: object) -> None:
    """A cluster would drop or refuse it."""
    changed: Any = copy.deepcopy(document("keda.yaml"))
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value

    with pytest.raises(ValidationError):
        ScaledObject.model_validate(changed)


def test_both_autoscalers_are_one_rule() -> None:
    """Whichever is applied, pods come and go the same, and the simulation has that rule."""
    assert hpa_rule() == rule_of((FOLDER / "keda.yaml").read_text("utf-8"))


def test_both_autoscalers_scale_the_deployment() -> None:
    """By its name and kind in pod.yaml."""
    deployment = next(yaml.safe_load_all((FOLDER / "pod.yaml").read_text("utf-8")))
    kind = {name: deployment[name] for name in ("apiVersion", "kind")}
    target = {**kind, "name": deployment["metadata"]["name"]}

    assert target == document("keda.yaml")["spec"]["scaleTargetRef"]
    assert target == document("hpa.yaml")["spec"]["scaleTargetRef"]


def test_deployment_comes_without_an_autoscaler() -> None:
    """Applying pod.yaml with either file must not bring both."""
    kinds = {each["kind"] for each in yaml.safe_load_all((FOLDER / "pod.yaml").read_text("utf-8"))}

    assert not kinds & {"HorizontalPodAutoscaler", "ScaledObject"}


def test_autoscaler_and_adapter_name_the_same_metric() -> None:
    """A metric that nobody serves scales nothing."""
    wanted = [metric["pods"]["metric"]["name"] for metric in document("hpa.yaml")["spec"]["metrics"]]
    [rule] = document("prometheus-adapter.yaml")["rules"]["custom"]

    assert [METRIC] == wanted
    assert rule["name"]["as"] == METRIC
    assert rule["seriesQuery"].startswith(METRIC)


def test_query_of_the_scaled_object_is_one_number_over_its_own_pods() -> None:
    """KEDA refuses an answer with several elements; pods are named after their Deployment."""
    metadata = document("keda.yaml")["spec"]["triggers"][0]["metadata"]

    assert re.fullmatch(
        rf'sum\(max_over_time\({METRIC}\{{namespace="[\w-]+",pod=~"clip-pod-\.\*"\}}\[60s\]\)\)', metadata["query"]
    )
