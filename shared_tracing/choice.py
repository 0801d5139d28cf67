"""Whether this process tells traces. The variables are OpenTelemetry's own; what else there is, its SDK reads.

A receiver has to be named: that of the specification's default, on this machine, is seldom there.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .exporting import Exporter

logger = logging.getLogger(__name__)

# What carries a trace from its caller: headers of a request, members of a job's input (W3C Trace Context).
TRACE_CONTEXT = ("traceparent", "tracestate")

_RECEIVERS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def open_exporter(environ: Mapping[str, str], *, service: str, distribution: str) -> Exporter | None:
    """Return the way out for this process' spans, with a thread of its own, so after a fork; None where none are told.
    See `Exporter`.
    """
    if not is_wanted(environ) or why_in_vain(environ):
        return None
    from .exporting import Exporter

    return Exporter.to_receiver(service=service, distribution=distribution)


def warn_if_in_vain(environ: Mapping[str, str]) -> None:
    """Log one line where traces are wanted and cannot be: at the start, once."""
    if is_wanted(environ) and (reason := why_in_vain(environ)):
        logger.warning("no traces: %s", reason)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether a receiver is named, and nothing turns traces off."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return any(map(environ.get, _RECEIVERS)) and environ.get("OTEL_TRACES_EXPORTER") != "none"


def why_in_vain(environ: Mapping[str, str]) -> str | None:
    """Return what is to be changed before wanted traces can be told; None if nothing."""
    exporter = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter != "otlp":
        return "OTEL_TRACES_EXPORTER: only otlp and none are known"
    protocol = next(filter(None, map(environ.get, _PROTOCOLS)), "http/protobuf")
    if protocol != "http/protobuf":
        return f"{_PROTOCOLS[1]}: only http/protobuf is known"
    if not all(map(_is_installed, _NEEDED)):
        return f"{_RECEIVERS[1]} is set, and OpenTelemetry is not installed: install the extra otel"
    return None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # Of what is around it.
        return False
