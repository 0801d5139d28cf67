"""Does /health answer while batches of 16 run without pause? `make bench-health`.

Real gunicorn, full-size ViT-B/32, 1080p JPEGs over loopback. The baseline is the same pod, idle, just before.
"""

import argparse
from dataclasses import asdict

from bench.figures import Check, Percentiles, Report, Row
from bench.goals import HEALTH_P99_MS
from bench.images import image_server
from bench.machine import about
from bench.pod import full_size_pod, poll_health
from bench.serving import Bench, image_batches
from bench.table import checklist
from bench.workload import RESULTS, pictures

CLIENTS = 4
_SIZE = "1080p"
_IDLE_S = 5.0


def main() -> None:
    """Measure, print one table and write bench/results/health.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the loaded phase")
    seconds = parser.parse_args().seconds
    case = image_batches(_SIZE, CLIENTS)
    files = {f"{_SIZE}-{number}.jpg": data for number, data in enumerate(pictures(_SIZE))}
    with image_server(files) as images, full_size_pod() as pod, Bench.over(pod, images) as bench:
        idle = Percentiles.of(poll_health(pod.base_url, lambda: False, seconds=_IDLE_S))
        loaded = bench.run(case, seconds)
    report(idle, loaded, seconds)


def report(idle: Percentiles, loaded: Row, seconds: float) -> None:
    """Print the table and write the same figures as JSON."""
    under_load = loaded.served.health_ms if loaded.served else idle
    print(f"/health in milliseconds, {CLIENTS} clients, {loaded.value:.1f} images/s meanwhile")
    print(f"{'':16}{'polls':>8}" + "".join(f"{name:>9}" for name in ("p50", "p95", "p99", "max")))
    for name, row in (("idle", idle), ("batches of 16", under_load)):
        print(f"{name:16}{row.count:8}" + "".join(f"{value:9.1f}" for value in (row.p50, row.p95, row.p99, row.max)))
    print(f"p99 under load is {under_load.p99 / idle.p99:.1f} times the idle one")
    goal = Check(
        f"/health p99 under {HEALTH_P99_MS:.0f} ms", f"{under_load.p99:.1f} ms", under_load.p99 < HEALTH_P99_MS
    )
    print(checklist([goal]))
    Report(about({"seconds": seconds, "idle_ms": asdict(idle)}), (loaded,), (goal,)).write(RESULTS / "health.json")


if __name__ == "__main__":
    main()
