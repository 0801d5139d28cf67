"""What a pod costs its host: the pod with an instant engine, figures per item, goals."""

import requests

from bench import host
from bench.instant import instant_pod, thread_names
from bench.lines import Line, with_ratios
from bench.pod import worker_of
from bench.trees import OTHER, THIS
from bench.usage import DEVICES, HUB, STAGES, Spent, Usage, spent, stage_of
from bench.work import Texts
from tools.testbed.process import SECRET


def test_a_pod_with_an_instant_engine_serves() -> None:
    """The real pod answers with vectors, looks like one of a GPU, and tells which of its threads works for what."""
    with instant_pod(THIS) as pod:
        worker = worker_of(pod)
        before = Usage.so_far(worker)
        for number in range(20):
            request = Texts(SECRET).request(number)
            answer = requests.post(pod.base_url + request.path, data=request.body, timeout=60).json()
        after, names = Usage.so_far(worker), thread_names(pod.base_url)

    assert (512, "cuda") == (answer["dim"], answer["device"])
    assert DEVICES in {stage_of(name) for name in names.values()}
    assert spent(before, after, names, main_thread=worker.pid).stages_s[HUB] > 0.0


def test_costs_are_per_item() -> None:
    """Processor seconds of all rounds become milliseconds per item of all rounds."""
    used = Spent(1.0, 2.0, {**dict.fromkeys(STAGES, 0.0), HUB: 0.25})
    one = host.Measured(items=1000, failed=1, elapsed_s=2.0, spent=used)
    both = (one + one).figures()

    assert (500.0, 1.0, 2.0, 0.25, 2.0) == tuple(
        both[name] for name in (host.RATE, host.MAIN, host.PROCESSES, HUB, host.FAILED)
    )


def test_goals_are_about_the_main_process_and_the_decode() -> None:
    """Each goal goes by its own row; a decode goes by the other tree's, and without one is not measured."""
    costs = {"batches of 16, 512 px": 0.2, "single images, 512 px": 0.91, "texts of ten words": 0.7}
    ours = [Line(what, THIS.label, {host.MAIN: cost, host.FAILED: 0.0}) for what, cost in costs.items()]
    decodes = [Line(host.DECODE, THIS.label, {host.MAIN: 1.6}), Line(host.DECODE, OTHER, {host.MAIN: 2.0})]

    assert [True, False, True, None] == [check.met for check in host.checks(ours)]
    assert [True, False, True, True] == [check.met for check in host.checks(with_ratios([*ours, *decodes]))]


def test_a_refusal_is_no_cheap_answer() -> None:
    """A row with failed requests misses its goal."""
    failing = Line("texts of ten words", THIS.label, {host.MAIN: 0.1, host.FAILED: 3.0})
    [check] = [check for check in host.checks([failing]) if check.met is not None]

    assert check.met is False
    assert "3 failed" in check.measured
