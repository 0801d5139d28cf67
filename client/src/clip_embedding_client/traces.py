"""Traces of calls: a span for each, with a child for each request that it sends, which carries the trace along.

A flow is wrapped, so that neither rules nor drivers know of it. Loads OpenTelemetry only where it is wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol, TypeVar

from clip_embedding_client.tracing import open_exporter, warn_if_in_vain

if TYPE_CHECKING:
    from clip_embedding_client.effects import Flow
    from clip_embedding_client.spans import Spans

Result = TypeVar("Result")

_DISTRIBUTION = "clip-embedding-client"


class Tracing(Protocol):
    """See `clip_embedding_client.spans.Spans`."""

    def call(self, flow: Flow[Result], name: str, *, items: int) -> Flow[Result]:
        """Return the same flow, which tells a trace."""

    def close(self) -> None: ...


def start_tracing(environ: Mapping[str, str]) -> Tracing | None:
    """Return what tells of calls; None where nobody would hear of it.

    An application that has set up OpenTelemetry itself gets the spans as its own are. Else they go to the receiver that
    the environment names, on a thread of the client's own.
    """
    if of_application := _of_application():
        return of_application
    warn_if_in_vain(environ)
    exporter = open_exporter(environ, service=_DISTRIBUTION, distribution=_DISTRIBUTION)
    if exporter is None:
        return None
    from clip_embedding_client.spans import Spans

    return Spans(exporter.tracer(), exporter)


def _of_application() -> Spans | None:
    """Nobody can have set it up without having loaded it."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
        return None
    from clip_embedding_client.spans import Spans

    return Spans(api.get_tracer(_DISTRIBUTION, version(_DISTRIBUTION)), None)
