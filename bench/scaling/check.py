"""The simulated pod beside a real one: `python -m bench.scaling.check`. Writes bench/results/scaling-check.json.

The real one is `bench.instant`'s: gunicorn, HTTP, downloads and decodes on one core, an engine that answers at once.
Its speed is measured by one kind of request at a time; then images and texts are mixed, measured and simulated.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import count

from bench.figures import Percentiles
from bench.host import leave_a_core
from bench.images import ImageServer, image_server
from bench.instant import instant_pod, thread_names
from bench.lines import Findings, Line, lines_table, ratio_of
from bench.load import Load, Outcome, drive
from bench.machine import about
from bench.pod import end_with_pods, worker_of
from bench.scaling.agenda import Agenda
from bench.scaling.replica import Limits, Replica, Request
from bench.scaling.speed import Rates, Speed, speed_of
from bench.serving import Case, image_batches, named_files, single_images, texts
from bench.timing import new_process
from bench.trees import THIS
from bench.usage import Usage, spent
from bench.workload import RESULTS, THUMBNAIL, pictures
from core.batching.items import Modality
from tools.testbed.process import PodProcess

RATE, P50, P99 = "requests/s", "p50 ms", "p99 ms"
SIMULATED, MEASURED, RATIO = "simulated", "measured", "ratio"
# Clients with batches and clients with texts, side by side.
MIXES: Sequence[tuple[int, int]] = ((4, 2), (16, 4))
_BUSY, _LIMITS = 16, Limits(64, 32)
# Long enough that how it begins does not show.
_SIMULATED_S = 120.0
# More than any measurement asks for, so that no two ask for the same.
_NUMBERS = 100_000
# An engine that answers at once: of the device's own time nothing.
_AT_ONCE = {Modality.IMAGE: {1: 0.0}, Modality.TEXT: {1: 0.0}}


def main() -> None:
    options = _options()
    end_with_pods()
    before = about({"seconds": options.seconds, "rounds": options.rounds})
    core = leave_a_core()
    with ExitStack() as stack:
        images = stack.enter_context(image_server(named_files({THUMBNAIL: pictures(THUMBNAIL)})))
        pod = stack.enter_context(instant_pod(THIS, cores=[core]))
        clients = [stack.enter_context(new_process()) for _ in range(2)]
        asking = _Asking(pod, images, clients, options.seconds)
        lines = [line for _ in range(options.rounds) for line in asking.round()]
    print(lines_table(lines))
    Findings(before, tuple(lines), ()).write(RESULTS / "scaling-check.json")


class _Asking:
    """One pod, and a process for each kind of client."""

    def __init__(
        self, pod: PodProcess, images: ImageServer, clients: Sequence[ProcessPoolExecutor], seconds: float
    ) -> None:
        self._pod = pod
        self._images = images
        self._clients = clients
        self._seconds = seconds
        self._numbers = count(1, _NUMBERS)

    def round(self) -> list[Line]:
        """Speed first, at once before the mixes that it is to predict: beside other work the machine's changes."""
        speed = self._speed()
        lines = list[Line]()
        for image_clients, text_clients in MIXES:
            cases = (image_batches(THUMBNAIL, image_clients), texts(text_clients))
            measured = {case: _figures(outcome) for case, outcome in zip(cases, self._run(*cases), strict=True)}
            simulated = simulate(speed, _LIMITS, cases, _SIMULATED_S)
            for case in cases:
                what = f"{case.what}, {image_clients} and {text_clients} clients"
                both = {SIMULATED: simulated[case], MEASURED: measured[case]}
                ratios = {name: ratio_of(value, measured[case][name]) for name, value in simulated[case].items()}
                lines += [Line(what, label, figures) for label, figures in (*both.items(), (RATIO, ratios))]
        return lines

    def _speed(self) -> Speed:
        def rates(case: Case, busy: Case) -> Rates:
            return Rates(*(_vectors_per_s(self._run(each)[0]) for each in (case, busy)))

        worker = worker_of(self._pod)
        before = Usage.so_far(worker)
        batches = rates(image_batches(THUMBNAIL, 1), image_batches(THUMBNAIL, _BUSY))
        used = spent(before, Usage.so_far(worker), thread_names(self._pod.base_url), main_thread=worker.pid)
        return speed_of(
            rates(single_images(THUMBNAIL, 1), single_images(THUMBNAIL, _BUSY)),
            batches,
            rates(texts(1), texts(_BUSY)),
            _AT_ONCE,
            streams=2,
            start_s=0.0,
            decode_share=used.others_s / (used.main_s + used.others_s),
        )

    def _run(self, *cases: Case) -> list[Outcome]:
        loads = [
            Load(self._pod.base_url, case.work(self._images), case.clients, self._seconds, next(self._numbers))
            for case in cases
        ]
        running = [client.submit(drive, load) for client, load in zip(self._clients, loads, strict=False)]
        return [each.result() for each in running]


def simulate(
    speed: Speed, limits: Limits, cases: Sequence[Case], seconds: float
) -> dict[Case, Mapping[str, float | None]]:
    """The same clients: each sends its next request when its last is answered, until the time is over."""
    agenda, taken_ms = Agenda(), {case: list[float]() for case in cases}
    replica = Replica(agenda, speed, limits)

    def ask(case: Case) -> None:
        sent_s = agenda.now_s

        def answered() -> None:
            taken_ms[case].append((agenda.now_s - sent_s) * 1000)
            ask(case)

        modality = Modality.TEXT if case.kind == "texts" else Modality.IMAGE
        replica.accept(Request(modality, case.batch, answered))

    for case in cases:
        for _ in range(case.clients):
            ask(case)
    agenda.run(seconds)
    return {case: _of_latencies(values, seconds) for case, values in taken_ms.items()}


def _figures(outcome: Outcome) -> Mapping[str, float | None]:
    return _of_latencies(outcome.latencies_ms, outcome.elapsed_s)


def _of_latencies(values_ms: Sequence[float], seconds: float) -> Mapping[str, float | None]:
    latency = Percentiles.of(values_ms)
    return {RATE: len(values_ms) / seconds, P50: latency.p50, P99: latency.p99}


def _vectors_per_s(outcome: Outcome) -> float:
    return outcome.vectors / outcome.elapsed_s


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
