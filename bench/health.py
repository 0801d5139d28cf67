"""Does /health answer while batches of 16 run without pause? `make bench-health`.

Real gunicorn, full-size ViT-B/32, 1080p JPEGs over loopback. The baseline is the same pod, idle, just before.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import requests

from bench.workload import full_size_model, picture
from core.contract import EMBED_IMAGE_BATCH
from tests.support.image_server import image_server
from tests.support.process import pod_process
from tests.support.target import signed_batch

BATCH = 16
CLIENTS = 4
POLL_INTERVAL_S = 0.01
RESULT = Path(__file__).parent / "results" / "health.json"


def main() -> None:
    """Measure, print one table and write bench/results/health.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the loaded phase")
    options = parser.parse_args()
    settings = {"CLIP_MODEL": str(full_size_model()), "CLIP_DTYPE": "auto"}
    with image_server() as images, pod_process(settings) as pod:
        urls = [images.add(f"/{number}.jpg", picture(1920, 1080, number)) for number in range(BATCH)]
        idle_ms = poll(pod.base_url, lambda: False, seconds=5.0)
        with Load(pod.base_url, urls) as load:
            loaded_ms = poll(pod.base_url, load.stopped.is_set, seconds=options.seconds)
        health = requests.get(pod.base_url + "/health", timeout=10).json()
    report(idle_ms, loaded_ms, load.images / options.seconds, health)


def poll(base_url: str, stopped: Callable[[], bool], *, seconds: float) -> np.ndarray:
    """Ask /health again and again over one kept-alive connection; returns milliseconds, shape (polls,)."""
    taken_ms = []
    until_s = time.monotonic() + seconds
    with requests.Session() as session:
        while time.monotonic() < until_s and not stopped():
            started_s = time.perf_counter()
            session.get(base_url + "/health", timeout=30).raise_for_status()
            taken_ms.append((time.perf_counter() - started_s) * 1000)
            time.sleep(POLL_INTERVAL_S)
    return np.asarray(taken_ms)


class Load:
    """CLIENTS processes that send one batch after the other while the block lasts; `images` counts their vectors."""

    def __init__(self, base_url: str, urls: list[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.stopped = context.Event()
        self._counts = context.Queue()
        self._clients = [
            context.Process(target=_send_batches, args=(base_url, urls, self.stopped, self._counts))
            for _ in range(CLIENTS)
        ]
        self.images = 0

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        # The processes import and send their first batch before anything is measured.
        for _ in self._clients:
            self._counts.get(timeout=120)
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        self.images = sum(self._counts.get(timeout=120) for _ in self._clients)
        for client in self._clients:
            client.join()


def _send_batches(base_url: str, urls: list[str], stopped: Event, counts: "multiprocessing.Queue[int]") -> None:
    done = 0
    with requests.Session() as session:
        _send_batch(session, base_url, urls)
        counts.put(0)
        while not stopped.is_set():
            done += _send_batch(session, base_url, urls)
    counts.put(done)


def _send_batch(session: requests.Session, base_url: str, urls: list[str]) -> int:
    answer = session.post(base_url + EMBED_IMAGE_BATCH, json=signed_batch(urls), timeout=120)
    return sum("embedding" in result for result in answer.json()["results"])


def report(idle_ms: np.ndarray, loaded_ms: np.ndarray, images_per_s: float, health: dict[str, object]) -> None:
    """Print the table and write the same figures as JSON."""
    rows = {name: percentiles(values) for name, values in (("idle", idle_ms), ("batches of 16", loaded_ms))}
    print(f"/health in milliseconds, {CLIENTS} clients, {images_per_s:.1f} images/s meanwhile")
    print(f"{'':16}{'polls':>8}" + "".join(f"{name:>9}" for name in ("p50", "p95", "p99", "max")))
    for name, row in rows.items():
        print(f"{name:16}{row['polls']:8}" + "".join(f"{row[key]:9.1f}" for key in ("p50", "p95", "p99", "max")))
    print(f"p99 under load is {rows['batches of 16']['p99'] / rows['idle']['p99']:.1f} times the idle one")
    machine = {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    figures = {"images_per_s": round(images_per_s, 2), "health_ms": rows, "pod": health, "machine": machine}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")


def percentiles(values_ms: np.ndarray) -> dict[str, float]:
    """Polls, p50, p95, p99 and maximum, in milliseconds."""
    p50, p95, p99 = np.percentile(values_ms, [50, 95, 99])
    figures = {"p50": p50, "p95": p95, "p99": p99, "max": values_ms.max()}
    return {"polls": len(values_ms), **{name: round(float(value), 2) for name, value in figures.items()}}


if __name__ == "__main__":
    main()
