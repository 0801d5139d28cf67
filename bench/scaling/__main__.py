"""Simulate a day under each way to run the service: `make bench-scaling`, `python -m bench.scaling --trace FILE`.

Service times are those of bench/results/gpu.json, limits and scaling those of the code and of deploy/; the client's
retries, breaker and fallback, and the device's turns, are the code itself. Writes bench/results/scaling.json and the
picture of docs/scaling.md. Measures nothing; docs/scaling.md says what is left out.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from json import loads
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml
from clip_embedding_client.settings import BackendName, ClientSettings

from bench.figures import Report
from bench.lines import Findings, lines_table
from bench.machine import about
from bench.scaling.chart import draw
from bench.scaling.figures import quietly_simulated
from bench.scaling.places import Endpoint, ScalingRule
from bench.scaling.replica import Limits
from bench.scaling.simulation import Way, World
from bench.scaling.speed import Speed, measured_on_a_gpu
from bench.scaling.traffic import Day, read_trace, write_trace
from bench.workload import RESULTS, ROOT
from core.process import cpu
from core.settings import ServiceSettings

PICTURE = ROOT / "docs" / "images" / "scaling.png"
KEDA = ROOT / "deploy" / "kubernetes" / "keda.yaml"
SERVERLESS = ROOT / "deploy" / "runpod" / "serverless.json"

# What bench/results/gpu.json was measured with.
_DEVICE_BATCH = 32

# Dollars, of the GPU that was measured. Serverless: RunPod's table of flex workers (docs.runpod.io/serverless/pricing,
# read November 2026; a 4090 is 0.00031). Its documentation has no table of pods: the price is one that a third party
# lists (deploybase.ai/articles/runpod-gpu-pricing, March 2026; a 4090 is 0.34 to 0.60). Put in what your console shows.
_SERVERLESS_PER_S, _POD_PER_HOUR = 0.00155, 3.59
# RunPod on FlashBoot: 95% of a busy endpoint's starts under 2.3 s, the longest, as without it, 42 s
# (blog.runpod.io/introducing-flashboot-1-second-serverless-cold-start, 2023, of a model larger than ours).
_REVIVED_SHARE, _REVIVED_S, _COLD_S = 0.95, 2.3, 42.0
# Nobody documents these. A node with a free GPU and the image on it; a line within a region, and RunPod's queue.
_POD_START_S, _POD_LINE_S, _SERVERLESS_LINE_S = 60.0, 0.02, 0.2


def main() -> None:
    options = _options()
    jobs = read_trace(options.trace) if options.trace else Day().jobs(options.seed)
    if options.write_trace:
        write_trace(jobs, options.write_trace)
    world = world_of(measured_on_a_gpu(Report.read(options.gpu)), options)
    simulated = partial(quietly_simulated, world=world, jobs=jobs, seed=options.seed)
    with ProcessPoolExecutor(cpu.available_cores(), get_context("spawn")) as processes:
        lines = list(processes.map(simulated, ways(rule_of(KEDA.read_text("utf-8"), options.threshold_s))))
    print(lines_table(lines))
    # A file's name alone: where it lay is of this machine.
    settings = {name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()}
    Findings(about(settings), tuple(lines), ()).write(RESULTS / "scaling.json")
    draw(jobs, lines, options.output)


def ways(rule: ScalingRule) -> list[Way]:
    """Those that are compared."""
    return [
        Way("one pod", pods=1),
        Way("two pods", pods=2),
        Way("serverless alone", serverless=True),
        Way("pod, then serverless", pods=1, serverless=True),
        Way("pods by queue", rule=rule),
        Way("pods by queue, then serverless", rule=rule, serverless=True),
    ]


def rule_of(keda: str, threshold_s: float | None = None) -> ScalingRule:
    """The rule of a ScaledObject's YAML; another threshold if one is given."""
    spec = yaml.safe_load(keda)["spec"]
    [trigger] = spec["triggers"]
    [window_s] = re.findall(r"\[(\d+)s\]", trigger["metadata"]["query"])
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    return ScalingRule(
        float(trigger["metadata"]["threshold"]) if threshold_s is None else threshold_s,
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
        float(window_s),
        float(down["stabilizationWindowSeconds"]),
    )


def endpoint_of(body: Mapping[str, Any], *, revived_s: float, cold_s: float, revived_share: float) -> Endpoint:
    """What a request body of RunPod's API asks for."""
    return Endpoint(
        body["workers"]["max"],
        body["scaling"]["requestCount"],
        body["workers"]["idleTimeout"],
        revived_s,
        cold_s,
        revived_share,
    )


def world_of(speed: Speed, options: argparse.Namespace) -> World:
    """Limits and settings are the code's own defaults."""
    places = ServiceSettings.model_fields["max_concurrent_requests"].default
    endpoint = endpoint_of(
        loads(SERVERLESS.read_text("utf-8")),
        revived_s=options.revived_s,
        cold_s=options.cold_s,
        revived_share=options.revived_share,
    )
    return World(
        speed,
        Limits(places, _DEVICE_BATCH),
        endpoint,
        ClientSettings(clip_inference_backend=BackendName.POD),
        options.pod_start_s,
        options.pod_line_s,
        options.serverless_line_s,
        options.pod_per_hour,
        options.serverless_per_s,
    )


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trace", type=Path, help="a CSV of your own traffic: at_s,kind,items,workers")
    parser.add_argument("--write-trace", type=Path, help="write the jobs there, as --trace reads them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gpu", type=Path, default=RESULTS / "gpu.json", help="a run of make bench-gpu")
    parser.add_argument("--threshold-s", type=float, help="seconds of queue per pod; else that of keda.yaml")
    parser.add_argument("--pod-per-hour", type=float, default=_POD_PER_HOUR)
    parser.add_argument("--serverless-per-s", type=float, default=_SERVERLESS_PER_S)
    parser.add_argument("--revived-share", type=float, default=_REVIVED_SHARE, help="of the starts, FlashBoot's")
    parser.add_argument("--revived-s", type=float, default=_REVIVED_S, help="such a start")
    parser.add_argument("--cold-s", type=float, default=_COLD_S, help="any other")
    parser.add_argument("--pod-start-s", type=float, default=_POD_START_S)
    parser.add_argument("--pod-line-s", type=float, default=_POD_LINE_S, help="a request's way there and back")
    parser.add_argument("--serverless-line-s", type=float, default=_SERVERLESS_LINE_S)
    parser.add_argument("--output", type=Path, default=PICTURE, help="the picture")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
