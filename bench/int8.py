"""int8 beside other ways to it, and over HTTP beside float32 and LitServe: `make bench-int8` (full-size model).

First a table of what each way costs and gains, for the bundled model and one of full size; then real pods and a real
LitServe, in rounds, asked for thumbnails, batches and texts. Writes bench/results/int8.json.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from statistics import median
from typing import Any

import nncf
import numpy as np

from bench.figures import Check
from bench.images import image_server
from bench.int8_chart import draw
from bench.lines import Findings, Line, at_least, find, lines_table, ratio_of, unless_failed
from bench.load import Load, Outcome, drive
from bench.machine import about, commit
from bench.peers.work import LitServeImages, LitServeTexts
from bench.pod import end_with_pods, full_size_pod
from bench.serving import named_files
from bench.table import checklist
from bench.trees import THIS
from bench.work import ImageBatches, SingleImages, Texts, Work
from bench.workload import RESULTS, THUMBNAIL, full_size_model, pictures
from core.clip.artifact import ModelDirectory, open_model
from core.clip.bake import Int8, bake
from core.clip.graph_files import INT8, GraphFiles
from core.clip.int8.judgement import Agreement, Error, Vectors
from core.clip.int8.material import drawn
from core.clip.int8.selection import choose_layers_to_leave
from core.clip.int8.trial import Subject, each_layer, rates, subjects, try_int8
from core.clip.openvino_engine import OpenVinoEngine
from core.clip.openvino_export import export, save
from core.clip.silent_openvino import openvino
from core.clip.towers import Towers
from core.clip.weights import read_weights
from core.process import cpu
from tools.testbed.process import ROOT, SECRET, TINY_MODEL

ERROR, P99, TOP_1, TOP_10, FLOAT32, IN_INT8, TIMES = (
    "error %", "p99 %", "top 1 %", "top 10 %", "float32/s", "int8/s", "times",
)  # fmt: skip
RATE, P50, FAILED = "per s", "p50 ms", "failed"

ALL, SMOOTHED, SMOOTHED_MIXED = "NNCF, all layers", "NNCF, SmoothQuant", "NNCF, SmoothQuant, mixed"
NEAREST, OURS, OURS_MIXED = "to the nearest, all layers", "as baked, all layers", "as baked, mixed"

# Of the error of all layers: what the mixed row has to stay below.
_MIXED_BOUND = 0.6
_READY_TIMEOUT_S = 180.0
_WARM_UP_S = 2.0

PODS = {"float32": "float32", "bfloat16": "bfloat16", "int8": INT8}
PEER = "LitServe, float32"


def main() -> None:
    """Compare ways, then serve; print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=("ways", "served"))
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a row of a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    end_with_pods()
    nncf.set_log_level(40)
    before = about({"seconds": options.seconds, "rounds": options.rounds, "commit": commit(THIS.folder)})
    lines, checks = list[Line](), tuple[Check, ...]()
    if options.only != "served":
        for name, model in (("bundled", TINY_MODEL), ("full size", full_size_model())):
            lines += [*_ways(name, open_model(str(model)))]
    print(f"{before['machine']['processor']}, {' '.join(before['machine']['flags'])}\n")
    print(lines_table(lines), "\n")
    if options.only != "ways":
        served = _served(options.seconds, options.rounds)
        checks = _checks(served)
        print(lines_table(served), "\n")
        print(checklist(checks))
        lines += served
    if options.only is None:
        Findings(before, tuple(lines), checks).write(RESULTS / "int8.json")
        draw(lines, RESULTS / "int8.png", error=ERROR, times=TIMES)


def _ways(name: str, directory: ModelDirectory) -> Iterator[Line]:
    """A line for each way and tower; each is judged on what it was not calibrated on."""
    halves = drawn(directory.size_px)
    with tempfile.TemporaryDirectory(prefix="int8-") as scratch:
        files = GraphFiles("", Path(scratch) / "graphs", Path(scratch) / "compiled")
        export(Towers.of(directory, read_weights(directory)), files.graphs, size_px=directory.size_px)
        floats = OpenVinoEngine(files, dtype="float32", threads=cpu.available_cores())
        both = subjects(directory, halves)
        expected = {subject.what: subject.encode(floats) for subject in both}
        for way, write in WAYS.items():
            shutil.rmtree(files.int8, ignore_errors=True)
            files.int8.mkdir()
            for subject in both:
                write(subject, files, expected[subject.what])
            engine = OpenVinoEngine(files, dtype=INT8, threads=cpu.available_cores())
            actual = {subject.what: subject.encode(engine) for subject in both}
            search = Agreement.of((expected["texts"], expected["images"]), (actual["texts"], actual["images"]))
            for subject in both:
                error = Error.of(expected[subject.what], actual[subject.what])
                slow, fast = rates(subject, floats, engine)
                figures = {
                    ERROR: 100 * error.mean, P99: 100 * error.p99, FLOAT32: slow, IN_INT8: fast, TIMES: fast / slow,
                    TOP_1: 100 * search.top_1, TOP_10: 100 * search.top_10,
                }  # fmt: skip
                line = Line(f"{name}, {subject.what}: {way}", THIS.label, figures)
                print(lines_table([line]).splitlines()[-1], flush=True)
                yield line


def _nncf(*, smooth: bool, leave: str | None) -> Callable[[Subject, GraphFiles, Vectors], None]:
    """Its transformer preset, static for activations as for weights."""

    def write(subject: Subject, files: GraphFiles, _expected: Vectors) -> None:
        graph = openvino.Core().read_model(files.graphs / subject.file)
        left = [node.get_friendly_name() for node in graph.get_ordered_ops() if leave and _is_layer(node, leave)]
        alphas = nncf.AdvancedSmoothQuantParameters() if smooth else nncf.AdvancedSmoothQuantParameters(-1, -1)
        batch = subject.samples.batch.numpy()
        quantised = nncf.quantize(
            graph,
            nncf.Dataset([batch[number : number + 1] for number in range(len(batch))]),
            subset_size=len(batch),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=left, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
        )
        save(quantised, files.int8 / subject.file)

    return write


def _is_layer(node: Any, ending: str) -> bool:  # noqa: ANN401 - openvino is untyped
    return node.get_type_name() == "MatMul" and f"{ending}/" in node.get_friendly_name()


def _nearest(subject: Subject, files: GraphFiles, _expected: Vectors) -> None:
    """NNCF's compression of weights, run with the same groups of inputs as ours."""
    graph = openvino.Core().read_model(files.graphs / subject.file)
    save(nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM), files.int8 / subject.file)


def _ours(subject: Subject, files: GraphFiles, expected: Vectors) -> None:
    try_int8(subject, files, expected, leave=frozenset())


def _ours_mixed(subject: Subject, files: GraphFiles, expected: Vectors) -> None:
    """For a bound that is well below the error of all layers."""
    whole = try_int8(subject, files, expected, leave=frozenset())
    layers = each_layer(subject, whole, expected)
    leave = choose_layers_to_leave(layers, error=whole.error.mean, bound=_MIXED_BOUND * whole.error.mean)
    if leave is not None:
        try_int8(subject, files, expected, leave=leave)


WAYS: Mapping[str, Callable[[Subject, GraphFiles, Vectors], None]] = {
    ALL: _nncf(smooth=False, leave=None),
    SMOOTHED: _nncf(smooth=True, leave=None),
    # What is usually left: behind the activation, inputs are the hardest to round.
    SMOOTHED_MIXED: _nncf(smooth=True, leave="perceptron.narrow"),
    NEAREST: _nearest,
    OURS: _ours,
    OURS_MIXED: _ours_mixed,
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked for, in our words and in the peer's; None where the peer has no such thing."""

    what: str
    ours: Work
    peers: Work | None
    clients: int


def _served(seconds: float, rounds: int) -> list[Line]:
    """Every server runs all the while; the one that is not asked is idle. The first round warms up."""
    seen = defaultdict[tuple[str, str], list[Mapping[str, float]]](list)
    numbers = count(0, 1_000_000)
    with ExitStack() as stack:
        cases, servers = _cases(stack), _servers(stack)
        for number, case, (name, base_url) in product(range(rounds + 1), cases, servers.items()):
            work = case.peers if name == PEER else case.ours
            if work is None:
                continue
            outcome = drive(Load(base_url, work, case.clients, seconds if number else _WARM_UP_S, next(numbers)))
            if number:
                seen[f"{case.what}, {case.clients} clients", name].append(_figures(outcome))
                print(".", end="", flush=True)
    print()
    return [
        Line(f"{what}: {name}", THIS.label, {figure: median(one[figure] for one in of_all) for figure in of_all[0]})
        for (what, name), of_all in seen.items()
    ]


def _cases(stack: ExitStack) -> tuple[Case, ...]:
    files = named_files({THUMBNAIL: pictures(THUMBNAIL), "1080p": pictures("1080p")})
    urls = stack.enter_context(image_server(files)).urls
    thumbnails, large = (tuple(url for name, url in urls.items() if name.startswith(size)) for size in ("512", "1080"))
    return (
        Case("single thumbnails", SingleImages(thumbnails, SECRET), LitServeImages(thumbnails), 64),
        Case("batches of 16 thumbnails", ImageBatches(thumbnails, SECRET), None, 4),
        Case("batches of 16, 1080p", ImageBatches(large, SECRET), None, 4),
        Case("texts of ten words", Texts(SECRET), LitServeTexts(), 64),
    )


def _servers(stack: ExitStack) -> dict[str, str]:
    """The address of each."""
    model = str(baked_full_size())
    servers = {
        name: stack.enter_context(full_size_pod({"CLIP_MODEL": model, "CLIP_DTYPE": dtype})).base_url
        for name, dtype in PODS.items()
        if dtype != "bfloat16" or cpu.has_bfloat16()
    }
    return {**servers, PEER: stack.enter_context(litserve(model))}


def _figures(outcome: Outcome) -> Mapping[str, float]:
    return {
        RATE: outcome.vectors / outcome.elapsed_s,
        P50: float(np.median(outcome.latencies_ms)),
        FAILED: float(outcome.failed),
    }


def _checks(lines: Sequence[Line]) -> tuple[Check, ...]:
    def goal(what: str, other: str, least: float) -> Check:
        ratio = ratio_of(find(lines, f"{what}: int8", RATE), find(lines, f"{what}: {other}", RATE))
        check = at_least(f"{what}: int8 >= {least} times {other}", ratio, least)
        return unless_failed(check, find(lines, f"{what}: int8", FAILED))

    return (
        goal("single thumbnails, 64 clients", "float32", 2.2),
        goal("batches of 16 thumbnails, 4 clients", "float32", 2.2),
        goal("batches of 16, 1080p, 4 clients", "float32", 2.2),
        goal("single thumbnails, 64 clients", PEER, 3.0),
        goal("texts of ten words, 64 clients", PEER, 1.0),
    )


def baked_full_size() -> Path:
    """The full-size model in int8, baked on first use."""
    target = ROOT / ".cache" / "random-vit-b-32-int8"
    if not target.is_dir():
        bake(str(full_size_model()), target, int8=Int8())
    return target


@contextmanager
def litserve(model: str) -> Iterator[str]:
    """A LitServe in processes of its own, ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "bench.peers.litserve_clip", model, str(port)]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - our own
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            _wait_for_port(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            # All of it: those that it has started outlive it.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    """LitServe listens once its model is loaded."""
    until_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < until_s and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("LitServe is not ready")


if __name__ == "__main__":
    main()
