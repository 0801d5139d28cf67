"""When a process tells traces: by OpenTelemetry's own variables, and never without a word where it cannot."""

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared_tracing import warn_if_in_vain
from shared_tracing.choice import is_wanted, why_in_vain
from tests.logs import records_of
from tools.testbed.process import ROOT

RECEIVER = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
IMPORT = "import os, sys; from shared_tracing import open_exporter"
OPEN = f"{IMPORT}; opened = open_exporter(os.environ, service='a', distribution='pip')"
SHOW = "print(opened is not None, 'opentelemetry' in sys.modules); opened and opened.close(0.0)"


def opened_and_loaded(environ: Mapping[str, str]) -> str:
    """Whether there is an exporter, and whether OpenTelemetry was loaded, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{OPEN}; {SHOW}"],
        cwd=ROOT,
        env=dict(environ),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"OTEL_SERVICE_NAME": "a"}, False, id="a name alone"),
        pytest.param(RECEIVER, True, id="receiver"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/v1/traces"}, True, id="receiver of traces"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False, id="empty receiver"),
        pytest.param({**RECEIVER, "OTEL_SDK_DISABLED": "True"}, False, id="disabled"),
        pytest.param({**RECEIVER, "OTEL_SDK_DISABLED": "false"}, True, id="not disabled"),
        pytest.param({**RECEIVER, "OTEL_TRACES_EXPORTER": "none"}, False, id="no traces"),
    ],
)
def test_traces_are_wanted_where_a_receiver_is_named(environ: Mapping[str, str], *, expected: bool) -> None:
    """And nothing turns them off."""
    assert expected is is_wanted(environ)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        pytest.param({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER: ", id="another exporter"),
        pytest.param({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: ", id="another protocol"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: ", id="of traces"),
    ],
)
def test_what_is_not_known_is_said(environ: Mapping[str, str], says: str, caplog: pytest.LogCaptureFixture) -> None:
    """In one line that names the variable; traces are off then, and not sent in some other way."""
    warn_if_in_vain({**RECEIVER, **environ})

    [record] = records_of(caplog, "shared_tracing")
    assert logging.WARNING == record.levelno
    assert record.getMessage().startswith(f"no traces: {says}")


def test_nothing_is_said_where_nothing_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """Not where traces can be told, and not where they are not wanted, whatever else is set."""
    warn_if_in_vain(RECEIVER)
    warn_if_in_vain({"OTEL_TRACES_EXPORTER": "console"})

    assert [] == records_of(caplog, "shared_tracing")
    assert why_in_vain(RECEIVER) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param(RECEIVER, "True True", id="wanted"),
        pytest.param({}, "False False", id="not wanted"),
        pytest.param({**RECEIVER, "OTEL_SDK_DISABLED": "true"}, "False False", id="disabled"),
    ],
)
def test_opentelemetry_is_loaded_only_where_it_is_used(environ: Mapping[str, str], expected: str) -> None:
    """It costs a start without traces nothing."""
    assert expected == opened_and_loaded(environ)


def test_extra_that_is_missing(tmp_path: Path) -> None:
    """No exporter, and a line that says what to install."""
    # Stands before the real one, and has none of its parts.
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    program = "import os; from shared_tracing.choice import why_in_vain; print(why_in_vain(os.environ))"
    environ = {**RECEIVER, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )

    assert opened_and_loaded(environ).startswith("False")
    assert "install the extra otel" in done.stdout
