"""A real Prometheus on a free port of loopback, with the configuration of `deploy/prometheus/`. `make prometheus`
installs it.
"""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from tools.testbed.loopback import kept_port
from tools.testbed.process import ROOT

CONFIGURATION = ROOT / "deploy" / "prometheus" / "prometheus.yaml"

_START_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 60.0
_POLL_S = 0.05


def is_installed() -> bool:
    """`make prometheus` installs both."""
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run it; what it says is in the result, its status too."""
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of an answer: its labels, and values by the Unix seconds they are of."""

    labels: Mapping[str, str]
    values: Mapping[float, float]

    @property
    def value(self) -> float:
        """The last one."""
        return self.values[max(self.values)]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    base_url: str

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how each went."""
        active: list[dict[str, Any]] = self._ask("targets", {})["activeTargets"]
        return active

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health, recording and alerting alike."""
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def query(self, expression: str) -> list[Series]:
        """What `expression` is now. Raises `AssertionError` with Prometheus' words where it is none."""
        result = self._ask("query", {"query": expression})["result"]
        return [Series(one["metric"], _values([one["value"]])) for one in result]

    def query_range(self, expression: str, *, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """What `expression` was between two Unix times. Raises as `query` does."""
        window = {"start": str(start_s), "end": str(end_s), "step": str(step_s)}
        result = self._ask("query_range", {"query": expression, **window})["result"]
        return [Series(one["metric"], _values(one["values"])) for one in result]

    def _ask(self, what: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        answer = requests.get(f"{self.base_url}/api/v1/{what}", params=parameters, timeout=_ANSWER_TIMEOUT_S).json()
        assert "success" == answer["status"], f"{parameters.get('query')}: {answer.get('error')}"
        data: dict[str, Any] = answer["data"]
        return data


def configuration(targets: Sequence[str], *, interval_s: float) -> dict[str, Any]:
    """The repository's, with other targets, and quicker; `rules.yaml` is named by its full path."""
    settings: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text("utf-8"))
    interval = f"{interval_s * 1000:.0f}ms"
    settings["global"] = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    settings["rule_files"] = [str(CONFIGURATION.parent / name) for name in settings["rule_files"]]
    [job] = settings["scrape_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    return settings


@contextmanager
def prometheus_server(targets: Sequence[str], *, interval_s: float) -> Iterator[Prometheus]:
    """A running Prometheus that scrapes `targets` (`host:port`) every `interval_s` until the block ends."""
    with prometheus_of(configuration(targets, interval_s=interval_s)) as running:
        yield running


@contextmanager
def prometheus_of(settings: Mapping[str, Any]) -> Iterator[Prometheus]:
    """A running Prometheus with this configuration until the block ends."""
    with tempfile.TemporaryDirectory(prefix="prometheus-") as folder, kept_port() as port:
        path = Path(folder, "prometheus.yaml")
        path.write_text(yaml.safe_dump(dict(settings)), "utf-8")
        process, base_url = _start(path, port)
        try:
            yield Prometheus(base_url)
        finally:
            _end(process)


def _start(configuration_path: Path, port: int) -> tuple["subprocess.Popen[bytes]", str]:
    log, address = configuration_path.with_name("log"), f"127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={configuration_path}",
        f"--storage.tsdb.path={configuration_path.with_name('data')}",
        f"--web.listen-address={address}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    if _answers(process, f"http://{address}"):
        return process, f"http://{address}"
    _end(process)
    raise AssertionError(f"Prometheus does not start:\n{log.read_text('utf-8', errors='replace')}")


def _answers(process: "subprocess.Popen[bytes]", base_url: str) -> bool:
    until_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until_s and process.poll() is None:
        with suppress(requests.RequestException):
            if requests.get(f"{base_url}/-/ready", timeout=_ANSWER_TIMEOUT_S).status_code == requests.codes.ok:
                return True
        time.sleep(_POLL_S)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _values(pairs: Sequence[tuple[float, str]]) -> dict[float, float]:
    return {float(at_s): float(value) for at_s, value in pairs}
