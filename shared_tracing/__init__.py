"""When traces are wanted, and the way to whoever takes them: one rule for the service and its client.

Loads OpenTelemetry only where both are so: traces are wanted, and it is installed.
"""

from .choice import TRACE_CONTEXT, open_exporter, warn_if_in_vain

__all__ = ["TRACE_CONTEXT", "open_exporter", "warn_if_in_vain"]
