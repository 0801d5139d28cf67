"""Prometheus' rules: valid, tested one by one with its own promtool, each alert with a page that says what to do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core import errors
from core.metrics import REQUEST_SECONDS
from core.operations import OPERATIONS
from pod.errors import STATUS
from tests.deploy.measured import known, strange
from tools.dashboard import panels
from tools.promql import uses
from tools.testbed.process import ROOT
from tools.testbed.prometheus import CONFIGURATION, is_installed, promtool

RULES = CONFIGURATION.with_name("rules.yaml")
TESTS = Path(__file__).with_name("rules_test.yaml")
PAGES = ROOT / "docs" / "runbooks"

# What the service is to blame for, whatever was asked.
FAULTS = {kind.code for kind, status in STATUS.items() if status >= 500}

_SECTIONS = ["## What it means", "## What to look at", "## What to do"]
_SECONDS_OF_A_REQUEST = re.compile(r"p99_rate5m\{[^}]*\} > ([\d.]+)")

needs_promtool = pytest.mark.skipif(not is_installed(), reason="no promtool: `make prometheus` installs it")


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        yield from group["rules"]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> dict[str, frozenset[str]]:
    """Labels of what is recorded: those by which its name says that it is grouped."""
    return {rule["record"]: frozenset(rule["record"].split(":")[0].split("_")) for rule in rules() if "record" in rule}


def every_rule() -> list[Any]:
    return [pytest.param(rule, id=rule.get("alert") or rule["record"]) for rule in rules()]


def every_alert() -> list[Any]:
    return [pytest.param(name, rule, id=name) for name, rule in alerts().items()]


@needs_promtool
def test_configuration_is_valid() -> None:
    """promtool takes the configuration, and the rules that it names."""
    checked = promtool("check", "config", CONFIGURATION)

    assert 0 == checked.returncode, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(list(rules()))} rules found" in checked.stdout


@needs_promtool
def test_rules_do_what_their_tests_say() -> None:
    """Prometheus' own evaluation: each alert fires when it should, for whom it should, with the right words."""
    tested = promtool("test", "rules", TESTS)

    assert 0 == tested.returncode, tested.stdout + tested.stderr


@needs_promtool
def test_rule_that_does_something_else_is_seen(tmp_path: Path) -> None:
    """The check above can fail: with another threshold promtool finds what does not come."""
    (tmp_path / "rules.yaml").write_text(RULES.read_text("utf-8").replace("ratio_rate5m > 0.05", "ratio_rate5m > 0.5"))
    tests = yaml.safe_load(TESTS.read_text("utf-8"))
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({**tests, "rule_files": ["rules.yaml"]}))
    tested = promtool("test", "rules", tmp_path / "tests.yaml")

    assert 1 == tested.returncode
    assert "alertname: ClipRequestsFail" in tested.stdout + tested.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("replicas", "firing"), [pytest.param(0, False, id="scaled to none"), pytest.param(1, True, id="without a place")]
)
def test_alert_can_spare_pods_that_nobody_wants(tmp_path: Path, replicas: int, firing: bool) -> None:
    """With what the guide puts behind its expression it goes by how many there are to be."""
    guide = (ROOT / "docs" / "observability.md").read_text("utf-8")
    [spared] = re.findall(r"^unless on .*$", guide, re.MULTILINE)
    alert = alerts()["ClipNobodyServes"]
    changed = {**alert, "expr": f"{alert['expr']} {spared}"}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "changed", "rules": [changed]}]}))
    series = 'kube_deployment_spec_replicas{job="kube-state-metrics", namespace="default", deployment="clip-pod"}'
    expected = [{"exp_labels": alert["labels"], "exp_annotations": alert["annotations"]}] if firing else []
    case = {
        "interval": "1m",
        "input_series": [{"series": series, "values": f"{replicas}x10"}],
        "alert_rule_test": [{"alertname": "ClipNobodyServes", "eval_time": "10m", "exp_alerts": expected}],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [case]}))
    tested = promtool("test", "rules", tmp_path / "tests.yaml")

    assert 0 == tested.returncode, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", alerts())
def test_alert_is_tested_to_fire_and_to_stay_quiet(name: str) -> None:
    """An alert that never fires, or always does, helps nobody. Where it fires, it does not for another."""
    cases = yaml.safe_load(TESTS.read_text("utf-8"))["tests"]
    mine = [case for case in cases if any(one["alertname"] == name for one in case["alert_rule_test"])]
    firing = [len(one["exp_alerts"]) for case in mine for one in case["alert_rule_test"]]

    assert max(firing) >= 1
    assert all(
        len(case["input_series"]) > max(len(one["exp_alerts"]) for one in case["alert_rule_test"]) for case in mine
    )


@pytest.mark.parametrize("rule", every_rule())
def test_rule_goes_by_what_is_measured(rule: dict[str, Any]) -> None:
    """Every metric, every label and every code in it is one of the service's, or was recorded before."""
    asked = uses(rule["expr"])

    assert asked
    assert [] == strange(asked, {**known(), **recorded()})


@pytest.mark.parametrize("rule", [rule for rule in every_rule() if "record" in rule.values[0]])
def test_recorded_name_says_by_what_it_is_grouped(rule: dict[str, Any]) -> None:
    """Prometheus' convention, level:metric:operations: who reads a name knows its labels."""
    labels = recorded()[rule["record"]]
    grouped = [use.labels - {label for label, _ in use.chosen} - {"le"} for use in uses(rule["expr"])]

    assert labels == frozenset().union(*grouped)


@pytest.mark.parametrize(("name", "rule"), every_alert())
def test_alert_has_a_page_that_says_what_to_do(name: str, rule: dict[str, Any]) -> None:
    """Who is woken finds what it means, where to look and what to do."""
    page = (ROOT / rule["annotations"]["runbook"]).read_text("utf-8")

    assert f"docs/runbooks/{name}.md" == rule["annotations"]["runbook"]
    assert page.startswith(f"# {name}\n")
    assert _SECTIONS == re.findall(r"^## .*$", page, re.MULTILINE)
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_page_is_of_an_alert() -> None:
    """A page that no alert names is out of date."""
    assert set(alerts()) == {path.stem for path in PAGES.glob("*.md")}


@pytest.mark.parametrize("name", alerts())
def test_page_asks_for_what_is_measured(name: str) -> None:
    """An expression on a page can be pasted into Prometheus."""
    expressions = re.findall(r"`(sum .*?)`", (PAGES / f"{name}.md").read_text("utf-8"))

    assert [] == strange((use for expression in expressions for use in uses(expression)), known())


@pytest.mark.parametrize("name", alerts())
def test_page_names_panels_that_there_are(name: str) -> None:
    """Who is sent to the dashboard finds what is named there."""
    text = re.sub("`[^`]*`", "", (PAGES / f"{name}.md").read_text("utf-8")).replace("\n", " ")

    assert set() == set(re.findall(r'"([A-Z][^"]+)"', text)) - {one.title for one in panels()}


def test_list_of_alerts_is_whole() -> None:
    """docs/observability.md links each page."""
    text = (ROOT / "docs" / "observability.md").read_text("utf-8")

    assert sorted(alerts()) == sorted(re.findall(r"\(runbooks/(\w+)\.md\)", text))


def test_alerts_cover_each_failure_of_the_service_once() -> None:
    """A status of 500 and more is a fault or a lack of room, and one alert's; others are the caller's."""
    failed = _codes("job:clip_requests_failed:ratio_rate5m")
    overloaded = _codes("job:clip_requests_overloaded:ratio_rate5m")

    assert FAULTS == failed | overloaded
    assert set() == failed & overloaded
    assert failed == _codes("job_modality:clip_items_failed:ratio_rate5m")
    assert {errors.AuthFailed.code, errors.AuthExpired.code} == _codes("job:clip_requests_unauthenticated:ratio_rate5m")


def test_slow_is_less_than_can_be_told() -> None:
    """A percentile is never above the last bucket's bound: a threshold there would never be crossed."""
    thresholds = [float(found) for found in _SECONDS_OF_A_REQUEST.findall(alerts()["ClipSlow"]["expr"])]

    assert 2 == len(thresholds)
    assert max(thresholds) < max(REQUEST_SECONDS.bounds)


def test_operations_in_rules_exist() -> None:
    """A rule of an operation by another name would be silent."""
    chosen = {
        value for rule in rules() for use in uses(rule["expr"]) for label, value in use.chosen if label == "operation"
    }

    assert chosen
    assert chosen <= {operation.name for operation in OPERATIONS.values()}


def _codes(record: str) -> set[str]:
    """Those that a recorded share counts."""
    [rule] = [rule for rule in rules() if rule.get("record") == record]
    return {value for use in uses(rule["expr"]) for label, value in use.chosen if label == "code"}
