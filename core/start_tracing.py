"""The start of a process' traces, for the entry points. Loads no OpenTelemetry where none are wanted."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared_tracing import open_exporter

if TYPE_CHECKING:
    from core.spans import Tracing


def start_tracing(environ: Mapping[str, str], *, service: str) -> "Tracing | None":
    """Return what begins the spans of this process' requests; None where no traces are wanted, or none can be told.

    Starts a thread: to be called after a fork.
    """
    exporter = open_exporter(environ, service=service, distribution="clip-embedding-service")
    if exporter is None:
        return None
    from core.spans import Tracing

    return Tracing(exporter)
