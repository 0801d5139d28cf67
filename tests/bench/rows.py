"""Rows as a run gives them, made by hand."""

from bench.figures import Percentiles, Row, Served


def served(what: str, value: float, *, kind: str, clients: int, failed: int = 0, health_p99_ms: float = 5.0) -> Row:
    """A row of the section over HTTP."""
    seen = Served(
        clients=clients,
        failed=failed,
        latency_ms=Percentiles(100, 40.0, 50.0, 55.0, 60.0),
        health_ms=Percentiles(100, 1.0, 2.0, health_p99_ms, 30.0),
        pod_cores=1.9,
        client_cores=0.02,
        image_server_cores=0.03,
    )
    return Row("http", what, value, f"{kind}/s", kind, served=seen)
