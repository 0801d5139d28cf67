"""The simulation of a day: nothing gets lost in it, known formulas come out, more servers are never slower."""

from collections.abc import Sequence
from dataclasses import replace
from json import loads
from pathlib import Path

import numpy as np
import pytest
from clip_embedding_client.settings import BackendName, ClientSettings

from bench.figures import Report
from bench.scaling.__main__ import SERVERLESS, endpoint_of, ways
from bench.scaling.agenda import Agenda
from bench.scaling.figures import BESIDE, LOST_IMAGES, PODS, line_of, percentile_ms, within
from bench.scaling.places import Endpoint, ScalingRule
from bench.scaling.processor import SharedProcessor
from bench.scaling.replica import Limits, Replica, Request
from bench.scaling.simulation import Done, Outcome, Way, World, simulate
from bench.scaling.speed import BATCH, Rates, Speed, measured_on_a_gpu, speed_of
from bench.scaling.traffic import DAY_S, Day, Job, Kind, read_trace, write_trace
from bench.workload import RESULTS
from core.batching.items import Modality

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT
FREE = Speed({IMAGE: 0.0, TEXT: 0.0}, 0.0, 0.0, {IMAGE: 0.0, TEXT: 0.0}, 0.0, {IMAGE: {1: 1.0}, TEXT: {1: 1.0}}, 1, 0.0)
# One pod does 2,000 images a second in batches.
SPEED = Speed(
    {IMAGE: 0.002, TEXT: 0.002},
    0.0002,
    0.0,
    {IMAGE: 0.003, TEXT: 0.0},
    0.01,
    {IMAGE: {1: 0.001, 32: 0.004}, TEXT: {1: 0.001, 32: 0.002}},
    2,
    3.0,
)
WORLD = World(
    SPEED,
    Limits(64, 32),
    Endpoint(3, 16, 60.0, 2.0, 40.0, 0.5),
    ClientSettings(clip_inference_backend=BackendName.POD),
    60.0,
    0.02,
    0.2,
    pod_per_hour=3.6,
    serverless_per_s=0.002,
)
RULE = ScalingRule(0.2)


def small_day(seed: int) -> list[Job]:
    """Searches, and bursts that one pod has to refuse some of."""
    return Day(400, 3, 10_000, 40, backfill_images=20_000).jobs(seed)


def search(at_s: float) -> Job:
    return Job(at_s, Kind.SEARCH, 1, 0)


@pytest.mark.parametrize("way", [pytest.param(way, id=way.name) for way in ways(RULE)])
def test_what_is_asked_is_answered_or_lost(way: Way) -> None:
    """Every item of every job has one outcome, under every way to run the service."""
    outcome = simulate(way, WORLD, small_day(2), 2)

    assert [done.job.items for done in outcome.done] == [done.answered + done.lost for done in outcome.done]
    assert all(done.seconds > 0 for done in outcome.done)


def test_a_full_pod_loses_what_a_fallback_takes() -> None:
    """More requests at once than places: the client gives up after its attempts, or goes elsewhere."""
    burst = [Job(0.0, Kind.BURST, 20_000, 40)]
    alone = line_of(simulate(Way("alone", pods=1), WORLD, burst, 1)).figures
    backed = line_of(simulate(Way("backed", pods=1, serverless=True), WORLD, burst, 1)).figures

    assert (alone[LOST_IMAGES] or 0.0) > 0
    assert backed[LOST_IMAGES] == 0


def test_same_seed_same_day() -> None:
    """Two runs can be compared because nothing else is drawn."""
    way = Way("both", pods=1, serverless=True)

    assert line_of(simulate(way, WORLD, small_day(3), 3)) == line_of(simulate(way, WORLD, small_day(3), 3))
    assert small_day(3) != small_day(4)


def waits_s(speed: Speed, arrivals: Sequence[float]) -> list[float]:
    """How long each text of a replica without a bound took, one per pass."""
    agenda, taken = Agenda(), list[float]()
    replica = Replica(agenda, speed, Limits(1_000_000, 1))

    def arrive(at_s: float) -> None:
        replica.accept(Request(TEXT, 1, lambda: taken.append(agenda.now_s - at_s)))

    for at_s in arrivals:
        agenda.at(at_s, lambda at_s=at_s: arrive(at_s))  # type: ignore[misc]
    agenda.run()
    return taken


@pytest.mark.parametrize("load", [pytest.param(0.5, id="half"), pytest.param(0.8, id="four fifths")])
def test_device_is_a_queue_with_one_server(load: float) -> None:
    """M/D/1: random arrivals and passes of one second wait load / (2 (1 - load)) seconds on average."""
    arrivals = np.cumsum(np.random.default_rng(5).exponential(1 / load, 60_000))
    waited_s = np.mean(waits_s(FREE, arrivals.tolist())) - 1

    assert float(waited_s) == pytest.approx(load / (2 * (1 - load)), rel=0.07)


def test_processor_is_shared_equally() -> None:
    """M/D/1 with one processor that all share: each takes 1 / (1 - load) times its work on average."""
    load, agenda, taken = 0.7, Agenda(), list[float]()
    processor = SharedProcessor(agenda)

    def arrive(at_s: float) -> None:
        processor.run(1.0, lambda: taken.append(agenda.now_s - at_s))

    for at_s in np.cumsum(np.random.default_rng(6).exponential(1 / load, 60_000)).tolist():
        agenda.at(at_s, lambda at_s=at_s: arrive(at_s))  # type: ignore[misc]
    agenda.run()

    assert float(np.mean(taken)) == pytest.approx(1 / (1 - load), rel=0.07)


def test_two_jobs_at_once_take_twice_as_long() -> None:
    """And one that begins later gets its half from then on."""
    agenda, ends = Agenda(), dict[str, float]()
    processor = SharedProcessor(agenda)
    processor.run(2.0, lambda: ends.update(first=agenda.now_s))
    agenda.at(1.0, lambda: processor.run(2.0, lambda: ends.update(second=agenda.now_s)))
    agenda.run()

    assert ends == pytest.approx({"first": 3.0, "second": 4.0})


def test_more_pods_are_never_slower() -> None:
    """The slowest percent of one fixed trace does not grow with the pods, nor do the losses."""
    jobs = small_day(7)
    outcomes = [simulate(Way(f"{pods}", pods=pods), WORLD, jobs, 7) for pods in (1, 2, 4, 8)]
    slowest_ms = [percentile_ms(outcome.of(Kind.SEARCH), 99) or 0.0 for outcome in outcomes]
    lost = [sum(done.lost for done in outcome.done) for outcome in outcomes]

    assert sorted(slowest_ms, reverse=True) == slowest_ms
    assert sorted(lost, reverse=True) == lost


def test_pods_are_paid_around_the_clock() -> None:
    """Two pods at 3.6 an hour cost 172.8 a day, whatever they do."""
    outcome = simulate(Way("two", pods=2), WORLD, [search(10.0)], 1)

    assert (2 * DAY_S, 0.0) == (outcome.paid_pod_s, outcome.paid_serverless_s)
    assert outcome.cost == pytest.approx(172.8)


def test_worker_is_paid_from_its_start_to_its_end() -> None:
    """Start, work and idle time, in whole seconds; nothing while nobody asks."""
    world = replace(WORLD, endpoint=Endpoint(3, 16, 60.0, 2.5, 40.0, revived_share=1.0))
    outcome = simulate(Way("alone", serverless=True), world, [search(10.0)], 1)

    assert outcome.paid_serverless_s == 63  # 2.5 + some milliseconds + 60
    assert outcome.cost == pytest.approx(63 * 0.002)


def test_cold_start_is_waited_for() -> None:
    """The first search after a silence waits for its worker, the next does not."""
    world = replace(WORLD, endpoint=Endpoint(3, 16, 60.0, 2.0, 40.0, revived_share=0.0))
    first, second = simulate(Way("alone", serverless=True), world, [search(0.0), search(50.0)], 1).done

    assert first.seconds > 40
    assert second.seconds < 1


def test_workers_come_by_the_number_of_jobs() -> None:
    """One for each `requestCount` that wait or run, and not more than the endpoint may have."""
    world = replace(WORLD, endpoint=Endpoint(2, 16, 60.0, 2.0, 2.0, 1.0))
    few = simulate(Way("alone", serverless=True), world, [Job(0.0, Kind.BURST, 16 * 16, 4)], 1)
    many = simulate(Way("alone", serverless=True), world, [Job(0.0, Kind.BURST, 40_000, 40)], 1)

    assert few.paid_serverless_s < 100
    assert 100 < many.paid_serverless_s < 2 * 100


@pytest.mark.parametrize(
    ("queued_s", "now", "wish"),
    [
        pytest.param(0.0, 3, 1, id="nothing waits"),
        pytest.param(0.21, 1, 1, id="within the tolerance"),
        pytest.param(0.5, 1, 3, id="two and a half thresholds"),
        pytest.param(50.0, 1, 5, id="four more at once"),
        pytest.param(50.0, 5, 8, id="not more than the most"),
    ],
)
def test_rule_of_the_autoscaler(queued_s: float, now: int, wish: int) -> None:
    """As many pods as thresholds are waiting, in Kubernetes' steps."""
    assert RULE.wish(queued_s, now) == wish


def test_autoscaler_adds_pods_while_work_waits_and_gives_them_back() -> None:
    """A job that lasts for minutes is joined by more pods, which go after the stabilisation."""
    job = [Job(0.0, Kind.BURST, 500_000, 16)]
    world = replace(WORLD, pod_start_s=30.0)
    one = simulate(Way("one", pods=1), world, job, 1)
    scaled = simulate(Way("scaled", rule=RULE), world, job, 1)

    assert scaled.done[0].seconds < one.done[0].seconds
    assert 1.0 < (line_of(scaled).figures[PODS] or 0.0) < 2.0
    assert scaled.cost > one.cost


@pytest.mark.parametrize("share", [pytest.param(0.0, id="cores to decode"), pytest.param(0.9, id="one core for all")])
def test_speed_solves_what_was_measured(share: float) -> None:
    """The costs of a request and of an item give back the rates that they were taken from."""
    passes = {IMAGE: {1: 0.001, 16: 0.002}, TEXT: {1: 0.001}}
    rates = Rates(100, 500), Rates(1000, 4000), Rates(200, 1000)
    speed = speed_of(*rates, passes, streams=2, start_s=3.0, decode_share=share)

    image_s = speed.decode_s + speed.item_s

    assert share == pytest.approx(speed.decode_s / image_s)
    assert 1 / (speed.request_s[IMAGE] + image_s) == pytest.approx(500)
    assert BATCH / (speed.request_s[IMAGE] + BATCH * image_s) == pytest.approx(4000)
    assert 1 / (speed.request_s[TEXT] + speed.item_s) == pytest.approx(1000)


def test_decodes_on_the_same_core_are_one_process() -> None:
    """However many batches it decodes, it leaves the main process half of the core, and not a seventeenth."""
    agenda, ends = Agenda(), list[float]()
    replica = Replica(agenda, replace(FREE, request_s={IMAGE: 0.0, TEXT: 1.0}, decode_s=1.0), Limits(64, 32))
    for _ in range(16):
        replica.accept(Request(IMAGE, BATCH, lambda: None))
    agenda.run(0.0)
    replica.accept(Request(TEXT, 1, lambda: ends.append(agenda.now_s)))
    agenda.run()

    assert ends == [pytest.approx(3.0)]  # two seconds for the one it needs, and one of the device


def test_pod_of_the_measured_speed_takes_what_was_measured() -> None:
    """64 clients with batches get the rate of the run on a GPU, within a sixth."""
    agenda, speed = Agenda(), measured_on_a_gpu(Report.read(RESULTS / "gpu.json"))
    replica, answered = Replica(agenda, speed, Limits(64, 32)), 0

    def ask() -> None:
        nonlocal answered
        answered += BATCH
        replica.accept(Request(IMAGE, BATCH, ask))

    for _ in range(64):
        ask()
    agenda.run(10.0)

    assert answered / 10 == pytest.approx(3847, rel=1 / 6)


def test_searches_beside_bursts_are_those_asked_meanwhile() -> None:
    """A percentile over the day hides minutes: those have a column of their own."""
    burst = Done(Job(100.0, Kind.BURST, 16, 1), answered=16, last_s=110.0)
    before, beside = Done(search(99.0), 1, 0, 99.1), Done(search(105.0), 1, 0, 107.0)
    figures = line_of(Outcome(Way("one", pods=1), [before, burst, beside], 0.0, 0.0, 0.0)).figures

    assert figures[BESIDE] == pytest.approx(2000)
    assert within([before, beside], []) == []


def test_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A day's jobs survive the file, to the last digit."""
    write_trace(small_day(1), tmp_path / "trace.csv")

    assert small_day(1) == read_trace(tmp_path / "trace.csv")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param("1,search,1\n", "line 2", id="too few"),
        pytest.param("1,search,2,0\n", "1 for a search", id="a search of two"),
        pytest.param("1,burst,16,0\n", "at least 1", id="images that nobody sends"),
        pytest.param("1,chat,1,0\n", "chat", id="an unknown kind"),
        pytest.param("-1,search,1,0\n", "from 0 on", id="before the day"),
        pytest.param("2,search,1,0\n1,search,1,0\n", "order", id="back in time"),
        pytest.param("", "no jobs", id="empty"),
    ],
)
def test_wrong_trace_is_refused(tmp_path: Path, rows: str, said: str) -> None:
    """With the line, or with what is missing."""
    path = tmp_path / "trace.csv"
    path.write_text("at_s,kind,items,workers\n" + rows)

    with pytest.raises(ValueError, match=said):
        read_trace(path)


def test_endpoint_is_that_of_the_deployment_file() -> None:
    """The simulation has no numbers of its own for what deploy/runpod says."""
    body = loads(SERVERLESS.read_text("utf-8"))
    endpoint = endpoint_of(body, revived_s=1.0, cold_s=2.0, revived_share=0.5)

    assert endpoint == Endpoint(3, 16, 60, 1.0, 2.0, 0.5)
