"""A real Prometheus over a real pod: what panels, rules and autoscaler ask for is there, with its labels."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import yaml

from core.metrics import GONE
from shared_auth.contract import EMBED_IMAGE, EMBED_IMAGE_BATCH, EMBED_TEXT, EMBED_TEXT_BATCH
from tests.deploy.measured import OF_PROMETHEUS, SCRAPED
from tests.deploy.test_manifests import in_the_guide, manifest
from tests.deploy.test_rules import recorded, rules
from tools.dashboard import Panel, panels
from tools.promql import Use, uses
from tools.testbed import exposition
from tools.testbed.image_server import ImageServer
from tools.testbed.process import API_KEY, TINY_MODEL, PodProcess, pod_process
from tools.testbed.prometheus import Prometheus, Series, is_installed, prometheus_of, prometheus_server
from tools.testbed.raw_http import connected, head
from tools.testbed.target import signed_batch, signed_image, signed_text, signed_texts

pytestmark = pytest.mark.skipif(not is_installed(), reason="no Prometheus: `make prometheus` installs it")

SOON_S = 120.0
RATE_INTERVAL = "1m"
NOWHERE = "127.0.0.1:9"
# A scrape may take as long. One that takes longer leaves a gap, in which nothing is shown.
_INTERVAL_S = 2.0
_EXAMPLES = TINY_MODEL / "examples"

# There is no GPU, so nothing of one is measured. The other target of that panel is drawn for a CPU too.
OF_GPUS = frozenset({"clip_device_memory_bytes"})

# And no fault of the service's: a share of none is not there.
OF_FAULTS = frozenset(
    {
        "job:clip_requests_failed:ratio_rate5m",
        "job:clip_requests_overloaded:ratio_rate5m",
        "job_modality:clip_items_failed:ratio_rate5m",
    }
)


@pytest.fixture(scope="module")
def watched(images: ImageServer) -> Iterator[PodProcess]:
    """A pod that has been asked for everything, wrongly too, and for more than one client may."""
    with pod_process({"RATE_LIMIT_ITEMS": "100/hour"}) as pod:
        ask(pod, images)
        yield pod


@pytest.fixture(scope="module")
def prometheus(watched: PodProcess, images: ImageServer) -> Iterator[Prometheus]:
    """It has scraped the pod before and after that was asked for everything again, and evaluated its rules since."""
    with prometheus_server([watched.base_url.removeprefix("http://")], interval_s=_INTERVAL_S) as running:
        wait_until(lambda: bool(running.query("clip_requests_total")))
        ask(watched, images)
        wait_until(lambda: bool(running.query("job:clip_requests:rate5m > 0")))
        evaluated = running.query("timestamp(job:clip_requests:rate5m)")[0].value
        wait_until(lambda: running.query("timestamp(job:clip_requests:rate5m)")[0].value > evaluated)
        yield running


def ask(pod: PodProcess, images: ImageServer) -> None:
    """Every operation once, an item that fails, a request that is refused, one client's too many, one hung up on."""
    url = images.add("/watched.png", (_EXAMPLES / "red-circle.png").read_bytes())
    missing = images.base_url + "/nowhere.png"
    requests_: list[tuple[str, dict[str, Any]]] = [
        (EMBED_IMAGE, signed_image(url)),
        (EMBED_IMAGE_BATCH, signed_batch([url, missing])),
        (EMBED_TEXT, signed_text("a red circle")),
        (EMBED_TEXT, signed_text("a red circle")),
        (EMBED_TEXT, {"text": "unsigned"}),
        (EMBED_TEXT_BATCH, signed_texts(["a blue square", "one that is a good deal longer than the other"])),
        (EMBED_TEXT_BATCH, signed_texts([f"too many, {number}" for number in range(200)])),
    ]
    for path, body in requests_:
        requests.post(pod.base_url + path, json=body, timeout=SOON_S)
    bearer = {"Authorization": f"Bearer {API_KEY}"}
    requests.post(
        pod.base_url + "/v1/embeddings", json={"input": "a circle", "model": "x"}, headers=bearer, timeout=SOON_S
    )
    awaited, gate = images.add_gated("/hung-up.png", b"")
    data = json.dumps(signed_image(awaited)).encode()
    with connected(pod.base_url) as client:
        client.sendall(head(EMBED_IMAGE, f"Content-Length: {len(data)}") + data)
        gate.wait_for_request()
    wait_until(lambda: GONE in requests.get(pod.base_url + "/metrics", timeout=SOON_S).text)
    gate.open()


def wait_until(there: Callable[[], bool]) -> None:
    """A net for what never comes; how long it takes decides nothing."""
    until_s = time.monotonic() + SOON_S
    while not there():
        assert time.monotonic() < until_s, "it did not come"
        time.sleep(_INTERVAL_S)


def found_soon(prometheus: Prometheus, expression: str) -> list[Series]:
    """Its series, which are away for as long as one scrape was too slow."""
    until_s = time.monotonic() + SOON_S
    while not (found := prometheus.query(expression)):
        assert time.monotonic() < until_s, expression
        time.sleep(_INTERVAL_S)
    return found


def live(pod: PodProcess) -> dict[str, set[str]]:
    """Labels by name, of every sample in `/metrics`."""
    labels: dict[str, set[str]] = {}
    for sample in exposition.samples(pod.base_url):
        labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def absent(asked: list[Use], there: dict[str, set[str]]) -> list[Use]:
    """Those of which there is no sample, or none with such a label; what Prometheus makes by itself is left out."""
    others = {*OF_PROMETHEUS, *recorded(), *OF_GPUS}
    scraped = [use for use in asked if use.metric not in others]
    return [use for use in scraped if use.metric not in there or not use.labels - SCRAPED <= there[use.metric]]


def every_panel() -> list[Any]:
    return [pytest.param(one, id=one.title) for one in panels()]


@pytest.mark.parametrize("shown", every_panel())
def test_panel_asks_for_what_a_pod_has(watched: PodProcess, shown: Panel) -> None:
    """Every metric and label of it is in that pod's `/metrics`."""
    asked = [use for target in shown.targets for use in uses(target.filled(rate_interval=RATE_INTERVAL))]

    assert [] == absent(asked, live(watched))


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule.get("alert") or rule["record"]) for rule in rules()])
def test_rule_goes_by_what_a_pod_has(watched: PodProcess, rule: dict[str, Any]) -> None:
    """Every metric and label of it is in that pod's `/metrics`: one that is not would never fire."""
    assert [] == absent(uses(rule["expr"]), live(watched))


@pytest.mark.parametrize("shown", every_panel())
def test_panel_shows_something(prometheus: Prometheus, shown: Panel) -> None:
    """Prometheus understands each expression and finds series, with the labels that the legend names them by."""
    for target in shown.targets:
        expression = target.filled(rate_interval=RATE_INTERVAL)
        if OF_GPUS & {use.metric for use in uses(expression)}:
            assert [] == prometheus.query(expression)
        else:
            found = found_soon(prometheus, expression)
            assert all(name.strip() for name in names(found, target.legend)), expression


def names(found: list[Series], legend: str) -> list[str]:
    """What the legend calls them. A client that nobody knows has no name, and a table no legend."""
    labels = [{name: value or "-" for name, value in {"client": "", **one.labels}.items()} for one in found]
    return [_named(legend, one) for one in labels] if legend else ["a table"]


def _named(legend: str, labels: dict[str, str]) -> str:
    return legend.replace("{{", "{").replace("}}", "}").format(**labels)


def test_prometheus_takes_what_the_pod_says(prometheus: Prometheus) -> None:
    """The scrape is without an error, under the job that the rules know."""
    wait_until(lambda: "up" == prometheus.targets()[0]["health"])
    [target] = prometheus.targets()

    assert ("up", "", "clip") == (target["health"], target["lastError"], target["labels"]["job"])


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    """Each has been evaluated over the pod's own series without an error, and no alert fires for a pod that is well."""
    wait_until(lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()))
    known = {rule.get("alert") or rule["record"] for rule in rules()}

    assert known == {rule["name"] for rule in prometheus.rules()}
    assert [] == [rule["lastError"] for rule in prometheus.rules() if rule["health"] != "ok"]
    assert [] == [rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"]


@pytest.mark.parametrize("name", sorted(recorded().keys() - OF_FAULTS))
def test_recorded_series_are_there(prometheus: Prometheus, name: str) -> None:
    """What was recorded has the labels that its name says. Where nothing has failed there is no share of it."""
    found = found_soon(prometheus, name)

    assert {frozenset({"__name__", *recorded()[name]})} == {frozenset(one.labels) for one in found}


def discovered(name: str, **changed: str) -> dict[str, Any]:
    """The manifest's pod as Prometheus' discovery on Kubernetes gives it."""
    template = manifest()[0]["spec"]["template"]
    [port] = template["spec"]["containers"][0]["ports"]
    labels = {
        f"pod_label_{re.sub(r'[^A-Za-z0-9_]', '_', label)}": value
        for label, value in template["metadata"]["labels"].items()
    }
    pod = {"namespace": "default", "pod_name": name, "pod_phase": "Running", "pod_container_port_name": port["name"]}
    known = {**labels, **pod, **changed}
    return {"targets": [NOWHERE], "labels": {f"__meta_kubernetes_{label}": value for label, value in known.items()}}


def test_job_in_the_guide_knows_pods_as_rules_and_autoscalers_do() -> None:
    """The manifest's pods that live, each once, whatever else the cluster has."""
    [job] = yaml.safe_load(in_the_guide("extraScrapeConfigs")["extraScrapeConfigs"])
    # Debian's Prometheus is built without this discovery, so what that finds is given.
    discovery = job.pop("kubernetes_sd_configs")
    pods = [
        discovered("clip-pod-a"),
        discovered("clip-pod-b", pod_phase="Pending"),
        discovered("clip-pod-evicted", pod_phase="Failed"),
        discovered("clip-pod-done", pod_phase="Succeeded"),
        discovered("clip-pod-a", pod_container_port_name="proxy"),
        discovered("other", pod_label_app_kubernetes_io_name="other"),
    ]
    with prometheus_of({"scrape_configs": [job | {"static_configs": pods}]}) as running:
        wait_until(lambda: bool(running.targets()))
        found = [target["labels"] for target in running.targets()]
    expected = [{"job": "clip-pod", "namespace": "default", "pod": pod} for pod in ("clip-pod-a", "clip-pod-b")]

    assert [{"role": "pod"}] == discovery
    assert [{"instance": NOWHERE, **labels} for labels in expected] == sorted(found, key=lambda labels: labels["pod"])
